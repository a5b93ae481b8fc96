"""What the user typed for a model, understood without importing anything heavy.

net.onnx                an ONNX file
net.pt2                 a torch.export package
net.py:make             a torch module, or a callable that returns one (or a module and its example inputs)
net.py:make(width=0.5)  the same, called with keyword arguments: literals of Python
pkg.nets:make           the same, from an importable module
resnet50, zoo:resnet50  one of the built-in models
net.hwbundle, net/      a bundle: an engine that hwbench has built, with its manifest
net.tflite, net.xml     an engine: a file of a runtime, which only that runtime can run; so are TensorRT's plans
                        (net.engine, net.plan, net.trt) and those of TensorRT-RTX (net.rtx)
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hwbench.bundles.container import is_bundle
from hwbench.bundles.layout import MANIFEST, SUFFIX
from hwbench.errors import ModelError, UsageError
from hwbench.files import near_names
from hwbench.models.zoo import ZOO

_CALLABLE = re.compile(r"(?P<where>.+?):(?P<attribute>[A-Za-z_][\w.]*)(?P<arguments>\(.*\))?", re.DOTALL)
_ENGINES = {  # whose files these are; the plugins claim the same suffixes
    ".tflite": "litert",
    ".xml": "openvino",
    ".engine": "tensorrt",
    ".plan": "tensorrt",
    ".trt": "tensorrt",
    ".rtx": "tensorrt-rtx",
}
_FILES = frozenset({".onnx", ".pt2", ".py", SUFFIX, *_ENGINES})
_NOT_MODELS = {
    ".pt": "holds pickled weights without the network",
    ".pth": "holds pickled weights without the network",
    ".safetensors": "holds weights without the network",
}
_FORMS = (
    "give net.onnx, net.pt2, net.py:callable, pkg.module:callable, a bundle, net.tflite, net.xml, or a built-in model"
)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model as named on the command line: ``where`` is a path, a module or a zoo name.

    ``engine``: whose file it is, where it is one of a runtime. ``arguments``: what a callable is called with.
    """

    text: str
    kind: Literal["onnx", "torch", "pt2", "zoo", "bundle", "engine"]
    where: str
    attribute: str | None = None
    engine: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """A short name for tables and folders."""
        if self.kind == "zoo":
            return self.where
        if self.kind == "bundle":
            path = Path(self.where).resolve()
            return path.stem if path.suffix.lower() == SUFFIX else path.name
        stem = Path(self.where).stem if self.kind != "torch" or self.where.endswith(".py") else self.where
        told = ",".join(f"{name}={value}" for name, value in self.arguments.items())
        called = f"({told})" if told else ""
        return f"{stem}.{self.attribute}{called}" if self.attribute else stem


def parse_spec(text: str) -> ModelSpec:
    """Understand what kind of model ``text`` names.

    Raises:
        UsageError: it names nothing of the known forms.
        ModelError: it names a file that does not exist.
    """
    text = text.strip()
    name = text.removeprefix("zoo:")
    if name in ZOO:
        return ModelSpec(text=text, kind="zoo", where=name)
    suffix = Path(text).suffix.lower()
    if suffix in {".onnx", ".pt2"}:
        _require_file(Path(text))
        return ModelSpec(text=text, kind="onnx" if suffix == ".onnx" else "pt2", where=text)
    if text and (built := _built(text, suffix)) is not None:
        return built
    match = _CALLABLE.fullmatch(text)
    if match and not text.startswith("zoo:"):
        if match["where"].endswith(".py"):
            _require_file(Path(match["where"]))
        arguments = _arguments(text, match["arguments"] or "()")
        return ModelSpec(
            text=text, kind="torch", where=match["where"], attribute=match["attribute"], arguments=arguments
        )
    if suffix in _NOT_MODELS:
        raise UsageError(f"'{text}' {_NOT_MODELS[suffix]}", hint=_FORMS)
    if suffix == ".py":
        _require_file(Path(text))
        raise UsageError(f"'{text}' names a file, and not what in it is the model", hint=f"give {text}:callable")
    if text and _is_folder(Path(text)):
        raise UsageError(f"'{text}' is a folder, and no bundle: it has no {MANIFEST}", hint=_FORMS)
    close = difflib.get_close_matches(name, ZOO, n=3)
    file = near_names(Path(name), _FILES) if not close else None
    meant = f"did you mean {' or '.join(close)}? " if close else f"{file} " if file else ""
    raise UsageError(f"'{text}' is not a model", hint=f"{meant}{_FORMS}: {', '.join(ZOO)}")


def with_arguments(text: str, arguments: Mapping[str, Any]) -> str:
    """Return the spec of a callable with arguments, those that it has already kept.

    Raises:
        UsageError: it is no callable, or has one of them already.
    """
    spec = parse_spec(text)
    if not arguments:
        return text
    if spec.kind != "torch":
        raise UsageError(
            f"'{text}' takes no arguments ({', '.join(arguments)})", hint="give net.py:make, which is called with them"
        )
    if twice := sorted(set(spec.arguments) & set(arguments)):
        raise UsageError(f"'{text}' has the argument {twice[0]} already")
    told = ", ".join(f"{name}={value!r}" for name, value in {**spec.arguments, **arguments}.items())
    return f"{spec.where}:{spec.attribute}({told})"


def _arguments(text: str, given: str) -> dict[str, Any]:
    """Read ``(width=0.5, depth=2)``."""
    try:
        call = ast.parse(f"f{given}", mode="eval").body
        if isinstance(call, ast.Call) and not call.args:
            found = {each.arg: ast.literal_eval(each.value) for each in call.keywords if each.arg is not None}
            if len(found) == len(call.keywords):
                return found
    except (ValueError, SyntaxError):
        pass
    raise UsageError(f"'{text}': {given} are no keyword arguments", hint="write net.py:make(width=0.5, depth=2)")


def _built(text: str, suffix: str) -> ModelSpec | None:
    """Return the spec of what is an engine already, or None where ``text`` names none."""
    if is_bundle(Path(text)):
        _require_there(Path(text))
        return ModelSpec(text=text, kind="bundle", where=text)
    if suffix in _ENGINES:
        _require_file(Path(text))
        return ModelSpec(text=text, kind="engine", where=text, engine=_ENGINES[suffix])
    return None


def _require_file(path: Path) -> None:
    if _is_folder(path):
        raise ModelError(f"'{path}' is a folder, not a model file", hint="name the file in it")
    _require_there(path)


def _require_there(path: Path) -> None:
    try:
        missing = not path.exists()
    except OSError as error:  # a name too long, a folder that may not be entered
        raise ModelError(f"'{path}' cannot be looked at: {error.strerror}") from error
    if missing:
        near = near_names(path, {path.suffix.lower()})
        raise ModelError(f"there is no file '{path}'", hint=near or f"looked in {path.parent.resolve()}")


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False

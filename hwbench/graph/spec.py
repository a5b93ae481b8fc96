"""What the user typed for a model, understood without importing anything heavy.

net.onnx                an ONNX file
net.pt2                 a torch.export package
net.py:make             a torch module, or a callable that returns one (or a module and its example inputs)
pkg.nets:make           the same, from an importable module
resnet50, zoo:resnet50  one of the built-in models
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hwbench.errors import ModelError, UsageError
from hwbench.files import near_names
from hwbench.models.zoo import ZOO

_CALLABLE = re.compile(r"(?P<where>.+):(?P<attribute>[A-Za-z_][\w.]*)")
_FILES = frozenset({".onnx", ".pt2", ".py"})
_NOT_MODELS = {
    ".pt": "holds pickled weights without the network",
    ".pth": "holds pickled weights without the network",
    ".safetensors": "holds weights without the network",
    ".tflite": "is a built engine, not a model that can be planned",
    ".xml": "is a built engine, not a model that can be planned",
    ".engine": "is a built engine, not a model that can be planned",
    ".plan": "is a built engine, not a model that can be planned",
}
_FORMS = "give net.onnx, net.pt2, net.py:callable, pkg.module:callable, or a built-in model"


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model as named on the command line: ``where`` is a path, a module or a zoo name."""

    text: str
    kind: Literal["onnx", "torch", "pt2", "zoo"]
    where: str
    attribute: str | None = None

    @property
    def name(self) -> str:
        """A short name for tables and folders."""
        if self.kind == "zoo":
            return self.where
        stem = Path(self.where).stem if self.kind != "torch" or self.where.endswith(".py") else self.where
        return f"{stem}.{self.attribute}" if self.attribute else stem


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
    match = _CALLABLE.fullmatch(text)
    if match and not text.startswith("zoo:"):
        if match["where"].endswith(".py"):
            _require_file(Path(match["where"]))
        return ModelSpec(text=text, kind="torch", where=match["where"], attribute=match["attribute"])
    if suffix in _NOT_MODELS:
        raise UsageError(f"'{text}' {_NOT_MODELS[suffix]}", hint=_FORMS)
    if suffix == ".py":
        _require_file(Path(text))
        raise UsageError(f"'{text}' names a file, and not what in it is the model", hint=f"give {text}:callable")
    if text and _is_folder(Path(text)):
        raise UsageError(f"'{text}' is a folder, not a model", hint=_FORMS)
    close = difflib.get_close_matches(name, ZOO, n=3)
    file = near_names(Path(name), _FILES) if not close else None
    meant = f"did you mean {' or '.join(close)}? " if close else f"{file} " if file else ""
    raise UsageError(f"'{text}' is not a model", hint=f"{meant}{_FORMS}: {', '.join(ZOO)}")


def _require_file(path: Path) -> None:
    if _is_folder(path):
        raise ModelError(f"'{path}' is a folder, not a model file", hint="name the file in it")
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

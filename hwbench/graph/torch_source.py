"""A torch module made again from where it came from: once to export it, once in each torch engine's own process."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import sysconfig
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hwbench.errors import ModelError
from hwbench.graph.spec import ModelSpec
from hwbench.models import zoo

_DTYPES = {"torch.float32": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16", "torch.float64": "fp64"}
# Where code lies that is not the user's: installed packages, the standard library, hwbench.
_LIBRARIES = tuple(
    Path(folder).resolve()
    for folder in {
        *sysconfig.get_paths().values(),
        str(Path(torch.__file__).parents[1]),
        str(Path(__file__).parents[1]),
    }
    if folder != sys.prefix
)


@dataclass(frozen=True, kw_only=True)
class TorchModel:
    """A module in eval mode and, where its source gave them, example inputs by the name of forward's argument.

    ``positional`` names the inputs that must be passed by position, in order; the others go by keyword.
    """

    module: torch.nn.Module
    example: dict[str, torch.Tensor] | None
    program: torch.export.ExportedProgram | None = None
    positional: tuple[str, ...] = ()

    @property
    def argument_names(self) -> list[str]:
        """The names of forward's positional arguments."""
        return forward_names(self.module)

    def arguments(self, inputs: Mapping[str, torch.Tensor]) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
        """Return ``inputs`` as ``(args, kwargs)`` of the module's call."""
        args = tuple(inputs[name] for name in self.positional if name in inputs)
        return args, {name: value for name, value in inputs.items() if name not in self.positional}


def load_torch(spec: ModelSpec, *, batch_size: int = 1) -> TorchModel:
    """Make the module that ``spec`` names. Runs the user's code.

    Raises:
        ModelError: it cannot be imported, the factory raises, or what it returns is no module.
    """
    if spec.kind == "zoo":
        network, inputs = zoo.create(spec.where, batch_size=batch_size)
        return TorchModel(module=network, example=inputs)
    if spec.kind == "pt2":
        return _load_pt2(Path(spec.where))
    made = _call(spec, _import_attribute(spec))
    module, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, torch.nn.Module):
        raise ModelError(
            f"'{spec.text}' gave a {type(module).__name__}, not a torch.nn.Module",
            hint="return the module, or (module, example_inputs)",
        )
    named = _by_name(module, example) if example is not None else None
    return TorchModel(module=module.eval(), example=named, positional=_positional_only(module))


def _load_pt2(path: Path) -> TorchModel:
    try:
        program = torch.export.load(path)
    except Exception as error:
        raise ModelError(f"'{path}' is not a torch.export package this torch can read: {_short(error)}") from error
    arguments, keywords = program.example_inputs or ((), {})
    names = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    flat = [*arguments, *keywords.values()]
    if len(flat) != len(names) or not all(isinstance(value, torch.Tensor) for value in flat):
        raise ModelError(f"'{path}' has inputs that are not plain tensors", hint="export it with tensor inputs only")
    positional = tuple(names[: len(arguments)])
    example = dict(zip((*positional, *keywords), flat, strict=True))
    return TorchModel(module=program.module(), example=example, program=program, positional=positional)


def _import_attribute(spec: ModelSpec) -> Any:
    try:
        namespace = _import_file(Path(spec.where)) if spec.where.endswith(".py") else _import_module(spec.where)
    except (Exception, SystemExit) as error:
        raise ModelError(f"importing '{spec.where}' failed: {_short(error)}") from error
    target: Any = namespace
    for part in (spec.attribute or "").split("."):
        if not hasattr(target, part):
            offered = [name for name, value in vars(namespace).items() if callable(value) and not name.startswith("_")]
            raise ModelError(
                f"'{spec.where}' has no '{spec.attribute}'", hint=f"it has: {', '.join(offered) or 'nothing'}"
            )
        target = getattr(target, part)
    return target


def _import_file(path: Path) -> Any:
    """Import a file under its stem, its folder importable, as ``python file.py`` would see it.

    A file called like a module that is already loaded (``onnx.py``) gets another name: taking its place would break
    whoever uses that module.
    """
    sys.path.insert(0, str(path.resolve().parent))
    name = path.stem if path.stem not in sys.modules else f"{path.stem} (model file)"
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    try:
        module_spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_module(name: str) -> Any:
    sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(name)


def _call(spec: ModelSpec, target: Any) -> Any:
    if isinstance(target, torch.nn.Module):
        if spec.arguments:
            raise ModelError(f"'{spec.text}' is a module already, and takes no {', '.join(spec.arguments)}")
        return target
    if not callable(target):
        raise ModelError(f"'{spec.text}' is a {type(target).__name__}, neither a module nor a callable")
    torch.manual_seed(0)
    try:
        return target(**spec.arguments)
    except (Exception, SystemExit) as error:
        called = f"with {', '.join(spec.arguments)}" if spec.arguments else "without arguments"
        raise ModelError(
            f"'{spec.text}' raised {_short(error)}", hint=f"it is called {called} and must return the module"
        ) from error


def _by_name(module: torch.nn.Module, example: Any) -> dict[str, torch.Tensor]:
    """Name example inputs by forward's parameters."""
    if isinstance(example, Mapping):
        named = dict(example)
    else:
        values = list(example) if isinstance(example, Sequence) else [example]
        names = forward_names(module)
        if len(values) > len(names):
            raise ModelError(
                f"{len(values)} example inputs were given and forward takes {len(names)}: {', '.join(names)}"
            )
        named = dict(zip(names, values, strict=False))
    for name, value in named.items():
        if not isinstance(value, torch.Tensor):
            raise ModelError(f"example input '{name}' is a {type(value).__name__}, not a tensor")
    return named


def forward_names(module: torch.nn.Module) -> list[str]:
    """Return the names of forward's positional arguments."""
    forward: Callable[..., Any] = module.forward
    return [
        parameter.name
        for parameter in inspect.signature(forward).parameters.values()
        if parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}
    ]


def _positional_only(module: torch.nn.Module) -> tuple[str, ...]:
    parameters = inspect.signature(module.forward).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_ONLY)


def module_precision(module: torch.nn.Module) -> str:
    """Return the precision of most of the module's floating-point parameters (fp32 where it has none)."""
    counted: Counter[str] = Counter()
    for parameter in module.parameters():
        if parameter.is_floating_point():
            counted[str(parameter.dtype)] += parameter.numel()
    dtype = counted.most_common(1)[0][0] if counted else "torch.float32"
    return _DTYPES.get(dtype, dtype)


def user_line(error: BaseException) -> str:
    """Return `` (net.py, line 8, in forward: y = self.fc(x))``: where in code that is no library's it happened.

    The innermost such line of whatever went wrong first; empty where there is none. Folders are left out: this goes
    into results.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and not any(path.is_relative_to(folder) for folder in _LIBRARIES):
            return f" ({path.name}, line {frame.lineno}, in {frame.name}: {(frame.line or '').strip()})"
    return ""


def _short(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}".strip()
    return text if len(text) <= 500 else text[:500] + " ..."

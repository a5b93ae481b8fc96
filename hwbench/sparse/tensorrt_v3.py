"""The kernels as ``IPluginV3`` classes in Python: for TensorRT 10.0 to 10.8, which compile no plugins ahead of time.

An engine with such plugins needs Python, hwbench and :func:`register_classes` where it runs. JetPack 6 ships TensorRT
10.3. Where that will not do, run the layer outside the engine (:mod:`hwbench.sparse.launch`). Not run by TensorRT on a
GPU yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from hwbench.cuda.api import Address, Argument, LaunchShape
from hwbench.errors import EngineError
from hwbench.sparse.launch import ForeignStream, Loaded, Variant
from hwbench.sparse.manifest import Kernel
from hwbench.sparse.onnx_kernels import NAMESPACE, plugin_name

VERSION = "1"
_BASES = ("IPluginV3", "IPluginV3OneCore", "IPluginV3OneBuild", "IPluginV3OneRuntime")


class Launch(Protocol):
    """Puts a kernel into a stream."""

    def __call__(
        self, kernel: Kernel, variant: Variant, shape: LaunchShape, arguments: Sequence[Argument], stream: int
    ) -> None:
        """Launch it; ``stream`` is a ``CUstream``."""
        ...


class DriverLaunch:
    """Launches kernels on TensorRT's streams; each variant is compiled and loaded once."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded

    def __call__(
        self, kernel: Kernel, variant: Variant, shape: LaunchShape, arguments: Sequence[Argument], stream: int
    ) -> None:
        function = self._loaded.function(kernel, variant)
        function.launch(shape, arguments, ForeignStream(stream, lambda: None))


def register_classes(tensorrt: Any, kernels: Iterable[Kernel], launch: Launch) -> tuple[str, ...]:
    """Register a creator for each kernel, with and without a bias, and return their names.

    TensorRT's registry is the process's own and takes a name once, so a creator that was registered before stays, and
    from now on its plugins launch by ``launch``.

    Raises:
        EngineError: TensorRT refuses one.
    """
    registry, found = tensorrt.get_plugin_registry(), []
    for kernel in kernels:
        for bias in (False, True):
            name = plugin_name(kernel, bias=bias)
            found.append(name)
            if (known := _REGISTERED.get((id(tensorrt), name))) is not None:
                known.relay.launch = launch
                continue
            relay = _Relay(launch)
            creator = creator_of(tensorrt, kernel, bias, relay)
            if not registry.register_creator(creator, NAMESPACE):
                raise EngineError(f"TensorRT refuses the plugin {name}")
            _REGISTERED[id(tensorrt), name] = _Registered(tensorrt, creator, relay)
    return tuple(found)


@dataclass
class _Relay:
    """Launches by whatever was given last: the GPU's context may have been opened again since."""

    launch: Launch

    def __call__(
        self, kernel: Kernel, variant: Variant, shape: LaunchShape, arguments: Sequence[Argument], stream: int
    ) -> None:
        self.launch(kernel, variant, shape, arguments, stream)


@dataclass(frozen=True)
class _Registered:
    """What TensorRT refers to for as long as the process lives."""

    tensorrt: Any
    creator: Any
    relay: _Relay


_REGISTERED: dict[tuple[int, str], _Registered] = {}  # by the module and the plugin's name


def creator_of(tensorrt: Any, kernel: Kernel, bias: bool, launch: Launch) -> Any:
    """Return a creator of the plugin of a kernel."""
    fields = ("m", "k", *kernel.scalars, "sm")
    made = plugin_class(tensorrt, kernel, bias, launch)

    class Creator(tensorrt.IPluginCreatorV3One):  # type: ignore[misc]
        def __init__(self) -> None:
            tensorrt.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_namespace, self.plugin_version = (
                plugin_name(kernel, bias=bias), NAMESPACE, VERSION,
            )  # fmt: skip
            self.field_names = tensorrt.PluginFieldCollection(
                [tensorrt.PluginField(name, np.array([], np.int32), tensorrt.PluginFieldType.INT32) for name in fields]
            )

        def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
            return made({field.name: int(field.data[0]) for field in fields})

    return Creator()


def plugin_class(tensorrt: Any, kernel: Kernel, bias: bool, launch: Launch) -> type[Any]:
    """Return the plugin's class: it is all three of its capabilities itself."""
    types = [*[tensorrt.int32] * len(kernel.inputs), *[tensorrt.float16] * bias]
    bases = tuple(getattr(tensorrt, name) for name in _BASES)
    told = {
        "tensorrt": tensorrt,
        "kernel": kernel,
        "bias": bias,
        "put": staticmethod(launch),
        "types": (tensorrt.float16, *types, tensorrt.float16),
        "bases": bases,
    }
    return type("Plugin", (_Plugin, *bases), told)


class _Plugin:
    """What TensorRT calls; the class it is made into has TensorRT's bases as well."""

    tensorrt: ClassVar[Any]
    kernel: ClassVar[Kernel]
    bias: ClassVar[bool]
    put: ClassVar[Launch]
    types: ClassVar[tuple[Any, ...]]  # of inputs and output
    bases: ClassVar[tuple[type[Any], ...]]

    def __init__(self, numbers: dict[str, int]) -> None:
        for base in self.bases:
            base.__init__(self)
        self.numbers = numbers
        self.plugin_name = plugin_name(self.kernel, bias=self.bias)
        self.plugin_namespace, self.plugin_version = NAMESPACE, VERSION
        self.num_outputs = 1

    def get_capability_interface(self, kind: Any) -> Any:
        return self

    def get_output_data_types(self, input_types: Sequence[Any]) -> list[Any]:
        return [input_types[0]]

    def get_output_shapes(self, inputs: Sequence[Any], shape_inputs: Any, builder: Any) -> list[Any]:
        shape = self.tensorrt.DimsExprs(2)
        shape[0], shape[1] = inputs[0][0], builder.constant(self.numbers["m"])
        return [shape]

    def supports_format_combination(self, place: int, descriptions: Sequence[Any], inputs: int) -> bool:
        what = descriptions[place].desc
        return bool(what.type == self.types[place] and what.format == self.tensorrt.TensorFormat.LINEAR)

    def configure_plugin(self, inputs: Any, outputs: Any) -> None:
        pass

    def on_shape_change(self, inputs: Any, outputs: Any) -> None:
        pass

    def enqueue(
        self, input_desc: Any, output_desc: Any, inputs: Any, outputs: Any, workspace: int, stream: int
    ) -> None:
        kernel, n, m = self.kernel, int(input_desc[0].dims[0]), self.numbers["m"]
        variant = Variant(kernel=kernel.name, tile_n=kernel.tile_for(n), bias=self.bias)
        shape = LaunchShape(grid=kernel.grid(n=n, m=m, tile_n=variant.tile_n), block=(kernel.threads, 1, 1))
        scalars = (n, m, self.numbers["k"], *(self.numbers[key] for key in kernel.scalars))
        arguments = (*map(Address, inputs), *scalars, Address(outputs[0]))
        self.put(kernel, variant, shape, arguments, stream)

    def attach_to_context(self, context: Any) -> Any:
        return self.clone()

    def get_fields_to_serialize(self) -> Any:
        trt = self.tensorrt
        fields = [
            trt.PluginField(key, np.array([value], np.int32), trt.PluginFieldType.INT32)
            for key, value in self.numbers.items()
        ]
        return trt.PluginFieldCollection(fields)

    def clone(self) -> Any:
        return type(self)(dict(self.numbers))

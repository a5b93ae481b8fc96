"""The kernels as TensorRT plugins: quickly deployable ones, compiled ahead of time into the engine.

    define_plugins(tensorrt.plugin, kernels, ptx)    # before the ONNX file is parsed

A definition has three functions: what the output is, which types and tactics there are, and, ahead of time, the kernel
itself as PTX with its grid as an expression in N. TensorRT puts the PTX into the engine, so that running it needs
neither Python nor a library (docs.nvidia.com, "Adding custom layers using Python", ahead-of-time plugins). Tactics are
the tiles of N the kernel is compiled for, and those of its wide kernel; TensorRT times them.

What has which: ``register`` and ``autotune`` came with 10.7, ``aot_impl`` with 10.9 and is marked experimental in 11;
TensorRT 10.0 to 10.8 (JetPack 6 ships 10.3) have ``IPluginV3`` alone (:mod:`hwbench.sparse.tensorrt_v3`), which needs
Python where the engine runs; TensorRT-RTX has no plugins. Nothing here has been run by TensorRT on a GPU yet: the
definitions pass the checks that TensorRT 11.4's own decorators make.

The PTX must not be newer than the driver that the engine meets: :func:`ptx_for`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from hwbench.errors import EngineError
from hwbench.sparse.build import compile_kernel, newest_ptx
from hwbench.sparse.launch import Variant, newest_below
from hwbench.sparse.manifest import Kernel, find_kernel, load_manifest, wide_of
from hwbench.sparse.onnx_kernels import NAMESPACE, plugin_name

Ptx = Callable[[Variant, int], bytes]  # for an architecture of the manifest: its PTX


def ptx_for(driver_cuda: tuple[int, int]) -> Ptx:
    """Return what compiles kernels that ship with hwbench to PTX that a driver reads, by the CUDA it implements."""

    def compiled(variant: Variant, arch: int) -> bytes:
        return compile_kernel(
            find_kernel(variant.kernel), arch=arch, tile_n=variant.tile_n, bias=variant.bias, act=variant.act,
            kind="ptx", ptx_isa=newest_ptx(driver_cuda),
        ).image  # fmt: skip

    return compiled


Route = Literal["ahead-of-time", "python-v3"]
BIAS = "bias"
_WIDE = 1000  # and the tile: the number of a tactic of the wide kernel


def route_of(tensorrt: Any, plugin: Any | None) -> Route | None:
    """Return how a TensorRT takes kernels; None: it has no plugins.

    Args:
        tensorrt: the module, of TensorRT or TensorRT-RTX.
        plugin: its module ``plugin``, where there is one.
    """
    network = getattr(tensorrt, "INetworkDefinition", None)
    if not hasattr(network, "add_plugin_v3"):
        return None
    if plugin is not None and hasattr(plugin, "aot_impl") and hasattr(plugin, "KernelLaunchParams"):
        return "ahead-of-time"
    return "python-v3" if hasattr(tensorrt, "IPluginV3OneRuntime") else None


def define_plugins(
    plugin: Any, kernels: Iterable[Kernel], ptx: Ptx, *, lazy: bool = False, already: Mapping[str, Any] | None = None
) -> tuple[str, ...]:
    """Define the plugins of all kernels, with and without a bias, and return their ids (``hwbench::s24``).

    Args:
        plugin: TensorRT's module ``tensorrt.plugin``.
        kernels: of the manifest.
        ptx: compiles a kernel.
        lazy: register with TensorRT only when a plugin is made in Python, as its own ``lazy_register``; the parser of
            ONNX files needs them at once.
        already: plugins that are defined, by id, which are left alone; by default those TensorRT has.

    Raises:
        EngineError: TensorRT refuses a definition.
    """
    made = _defined(plugin) if already is None else already
    found = []
    for kernel in kernels:
        for bias in (False, True):
            plugin_id = f"{NAMESPACE}::{plugin_name(kernel, bias=bias)}"
            found.append(plugin_id)
            if plugin_id in made:
                continue
            try:
                _define(plugin, plugin_id, kernel, bias, ptx, lazy)
            except (ValueError, TypeError, AttributeError, RuntimeError) as error:
                raise EngineError(f"TensorRT refuses the plugin {plugin_id}: {error}") from error
    return tuple(found)


def tactics_of(kernel: Kernel) -> dict[int, tuple[Kernel, int]]:
    """Return the tactics of a plugin by number: a kernel and its tile of N, the kernel's own and the wide one's."""
    wide = wide_of(load_manifest(), kernel)
    own = {tile: (kernel, tile) for tile in kernel.tile_n}
    return own if wide is None else own | {_WIDE + tile: (wide, tile) for tile in wide.tile_n}


def _defined(plugin: Any) -> Mapping[str, Any]:
    space = getattr(plugin.op, NAMESPACE, None) if hasattr(plugin.op, NAMESPACE) else None
    return {f"{NAMESPACE}::{name}": one for name, one in vars(space).items()} if space is not None else {}


def _define(plugin: Any, plugin_id: str, kernel: Kernel, bias: bool, ptx: Ptx, lazy: bool) -> None:
    tensors = ("x", *kernel.inputs, *((BIAS,) if bias else ()))
    attributes = ("m", "k", *kernel.scalars, "sm")
    tactics = tactics_of(kernel)
    desc = plugin.TensorDesc
    inputs = dict.fromkeys(tensors, desc)
    given = dict.fromkeys(attributes, int)

    def describe(*arguments: Any) -> Any:
        y = arguments[0].like()
        y.shape_expr[1] = arguments[len(tensors)]
        return y

    def tune(*_: Any) -> Any:
        types = ["FP16", *["INT32"] * len(kernel.inputs), *["FP16"] * bias, "FP16"]
        return [plugin.AutoTuneCombination(", ".join(types), "LINEAR", list(tactics))]

    def ahead(*arguments: Any) -> Any:
        numbers = dict(zip(attributes, arguments[len(tensors) : len(tensors) + len(attributes)], strict=True))
        chosen, tile = tactics[int(arguments[-1])]
        variant = Variant(kernel=chosen.name, tile_n=tile, bias=bias)
        return _kernel_of(plugin, chosen, variant, numbers, arguments[0].shape_expr[0], ptx)

    outputs = {"outputs": tuple[desc]}  # type: ignore[valid-type]
    returned = tuple[str | bytes, str | bytes, plugin.KernelLaunchParams, plugin.SymExprs]
    plugin.register(plugin_id, lazy_register=lazy)(_signed(describe, {**inputs, **given}, desc))
    plugin.autotune(plugin_id)(_signed(tune, {**inputs, **outputs}, list[plugin.AutoTuneCombination]))
    plugin.aot_impl(plugin_id)(_signed(ahead, {**inputs, **given, **outputs, "tactic": int}, returned))


def _kernel_of(plugin: Any, kernel: Kernel, variant: Variant, numbers: Mapping[str, int], n: Any, ptx: Ptx) -> Any:
    """Return what TensorRT puts into the engine: name, PTX, launch, and the scalars behind the inputs."""
    image = ptx(variant, newest_below(kernel.archs, numbers["sm"]))
    blocks = kernel.grid(n=1, m=numbers["m"], tile_n=variant.tile_n)
    launch = plugin.KernelLaunchParams(
        grid_x=blocks[0], grid_y=plugin.cdiv(n, variant.tile_n), block_x=kernel.threads, shared_mem=0
    )
    scalars = [n, numbers["m"], numbers["k"], *(numbers[name] for name in kernel.scalars)]
    arguments = plugin.SymIntExprs.from_tuple([plugin.SymInt32(each) for each in scalars])
    return kernel.entry.encode(), image, launch, arguments


def _signed(function: Callable[..., Any], parameters: Mapping[str, Any], returned: Any) -> Callable[..., Any]:
    """Return the function with a signature: TensorRT reads names and types from it, and calls by position."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    given = [inspect.Parameter(name, kind, annotation=what) for name, what in parameters.items()]
    names = list(parameters)

    def call(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, *(named[name] for name in names[len(arguments) :]))

    call.__signature__ = inspect.Signature(given, return_annotation=returned)  # type: ignore[attr-defined]
    return call

"""Sparse kernels in a TensorRT engine: can this version take them, and their plugins made known to it.

What a plan gives a kernel becomes a node of :mod:`hwbench.sparse.onnx_kernels` in the graph. Before such a graph is
parsed the plugins are defined; ahead of time their PTX goes into the engine, and whoever runs it needs nothing. Written
in Python (TensorRT 10.0 to 10.8) they are needed again whenever the engine is loaded. Not run on a GPU yet.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

from hwbench.cuda.api import Cuda
from hwbench.engines.tensorrt_api import Api
from hwbench.errors import EngineError, Unsupported, UsageError
from hwbench.records.base import Missing
from hwbench.sparse.apply import NO_PLUGINS
from hwbench.sparse.launch import Loaded, Variant, image_of, newest_below
from hwbench.sparse.manifest import Kernel, find_kernel
from hwbench.sparse.onnx_kernels import Lacks
from hwbench.sparse.tensorrt_plugin import Route, define_plugins, ptx_for, route_of
from hwbench.sparse.tensorrt_v3 import DriverLaunch, register_classes

KERNELS, ROUTE = "kernels", "plugins"  # settings of an engine that has some


def why_dense(api: Api) -> Missing | None:
    """Return why this TensorRT takes no kernels, or None where it does."""
    if api.is_rtx:
        return NO_PLUGINS
    if route_of(api.trt, _plugin_module(api)) is not None:
        return None
    why = f"{api.title} has no plugins that can be written in Python; they came with 10.0"
    return Missing(code="no_plugins", why=why, cure="JetPack 6.1 and newer have TensorRT 10")


def cannot_be_had(api: Api, capability: tuple[int, int], driver_cuda: tuple[int, int]) -> Lacks:
    """Return what tells why a kernel cannot be compiled for a GPU and its driver, by compiling its smallest tile.

    Asked before the graph is written: within TensorRT's build it would be an error of the whole engine. What is
    compiled is kept, so the build does not do it again.
    """
    ahead = not api.is_rtx and route_of(api.trt, _plugin_module(api)) == "ahead-of-time"

    @functools.cache
    def lacks(kernel: Kernel) -> Missing | None:
        variant = Variant(kernel=kernel.name, tile_n=kernel.tile_n[0])
        try:
            if ahead:
                ptx_for(driver_cuda)(variant, newest_below(kernel.archs, capability[0] * 10 + capability[1]))
            else:
                image_of(variant, capability)
        except (EngineError, Unsupported, UsageError) as error:
            why = f"the kernel {kernel.name} cannot be had for a driver of CUDA {driver_cuda[0]}.{driver_cuda[1]}"
            return Missing(code="cannot_be_compiled", why=f"{why}: {error.message}", cure=error.hint)
        return None

    return lacks


def offer_kernels(
    api: Api, names: Collection[str], driver_cuda: tuple[int, int], open_gpu: Callable[[], Cuda]
) -> dict[str, str]:
    """Define the plugins of kernels, and return the settings that an engine with them has.

    Args:
        api: the TensorRT that will parse or load.
        names: of kernels in the manifest; none changes nothing.
        driver_cuda: the CUDA that the driver implements: PTX must not be newer.
        open_gpu: the GPU's context, asked for where plugins launch by themselves.

    Raises:
        Unsupported: this TensorRT takes no plugins.
        EngineError: it refuses one.
    """
    if not names:
        return {}
    kernels, plugin = [find_kernel(name) for name in sorted(set(names))], _plugin_module(api)
    route: Route | None = None if api.is_rtx else route_of(api.trt, plugin)
    if route is None:
        raise Unsupported(f"the engine has sparse kernels: {why_dense(api)}")
    if route == "ahead-of-time":
        define_plugins(plugin, kernels, ptx_for(driver_cuda))
    else:
        register_classes(api.trt, kernels, DriverLaunch(Loaded(open_gpu())))
    return {KERNELS: " ".join(kernel.name for kernel in kernels), ROUTE: route}


def kernels_to_load(settings: Mapping[str, str]) -> tuple[str, ...]:
    """Return the kernels whose plugins must be there before an engine is loaded: those not compiled into it."""
    return tuple(settings[KERNELS].split()) if settings.get(ROUTE) == "python-v3" else ()


def _plugin_module(api: Api) -> Any | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls itself experimental at every import
        try:
            return importlib.import_module(f"{api.trt.__name__}.plugin")
        except ImportError:
            return None

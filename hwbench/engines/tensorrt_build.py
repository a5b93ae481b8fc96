"""From a typed ONNX graph to a plan: one build of TensorRT, with every setting pinned, read back and kept.

:func:`build_plan` is called in a process of its own; the graph comes from :mod:`hwbench.engines.tensorrt_lower`. What a
version does not have is refused by its name, and nothing is set that was not asked for or is not stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwbench.engines.tensorrt_api import Api, dotted
from hwbench.engines.tensorrt_cache import read_cache, write_cache
from hwbench.engines.tensorrt_dla import Placement, place_on_dla
from hwbench.engines.tensorrt_log import Line, Sparsity, sparsity_in, warnings_in
from hwbench.engines.tensorrt_options import HARDWARE_LEVELS, BuildOptions
from hwbench.engines.tensorrt_types import pin_products
from hwbench.errors import EngineError, Unsupported, UsageError

# From RTX 1.2 on: without it a context may take memory while it runs, which a stream that is captured cannot.
_NO_ALLOCATION = "REQUIRE_USER_ALLOCATION"


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """A graph and how it is to be built.

    ``flags`` are names of builder flags that every version takes, ``weak_flags`` those for a network whose types the
    builder chooses. ``cache``: the file of the timing cache, None for none.
    """

    graph: Path
    capability: tuple[int, int]
    flags: tuple[str, ...]
    weak_flags: tuple[str, ...]
    options: BuildOptions
    cache: Path | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A built engine, and what is known about the build. ``settings`` are read back from TensorRT, as text."""

    data: bytes
    settings: dict[str, str]
    lines: tuple[Line, ...]
    sparsity: Sparsity | None
    dla: Placement | None
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def build_plan(api: Api, request: PlanRequest) -> Plan:
    """Build a graph into a plan.

    Raises:
        Unsupported: this version, or RTX for this GPU, has not what an option or the graph asks for.
        UsageError: the graph has open axes and no option tells how long they may be.
        EngineError: TensorRT refuses; the message is its own.
    """
    mark = api.journal.mark()
    builder = api.builder()
    weak = is_weak(api, request.options)
    names = api.network_flags(weak=weak)
    with api.explained("TensorRT could not make a network"):
        network = builder.create_network(_network_bits(api, names))
        config = builder.create_builder_config()
    _parse(api, network, request.graph)
    _set(api, config, request, weak=weak)
    profiled = _add_profile(api, builder, network, config, request.options)
    pinned = pin_products(api.trt, network, request.weak_flags) if weak else 0
    placed = None if request.options.dla is None else place_on_dla(api, builder, config, network, request.options.dla)
    cache = _take_cache(api, config, request)
    settings = _told(api, config, request, names)
    with api.explained("TensorRT refused to build"):
        serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise EngineError(f"{api.title} built no engine: {api.journal.last_error() or 'and did not say why'}")
    notes = _keep_cache(config, cache)
    lines = api.journal.since(mark)
    return Plan(
        data=bytes(serialized),
        settings=settings | profiled | ({"pinned_products": str(pinned)} if weak else {}),
        lines=lines,
        sparsity=sparsity_in(lines),
        dla=placed,
        warnings=warnings_in(lines),
        notes=notes,
    )


def rtx_targets(api: Api) -> tuple[str, ...]:
    """Return the compute capabilities that this RTX builds for, as 8.9."""
    members = api.trt.ComputeCapability.__members__
    numbers = [name.removeprefix("SM") for name in members if name.startswith("SM")]
    return tuple(f"{number[:-1]}.{number[-1]}" for number in numbers)


def require_target(api: Api, capability: tuple[int, int]) -> str:
    """Return the name that RTX has for a compute capability.

    Raises:
        Unsupported: it builds for no such GPU.
    """
    name = f"SM{capability[0]}{capability[1]}"
    if name not in api.trt.ComputeCapability.__members__:
        raise Unsupported(
            f"{api.title} builds for compute capability {', '.join(rtx_targets(api))}, not {dotted(capability)}",
            hint="on data-centre GPUs and Jetsons use -e tensorrt, on the device itself",
        )
    return name


def is_weak(api: Api, options: BuildOptions) -> bool:
    """Say whether types are left to the builder: on 8.x there is nothing else, and DLA takes no strong types in 10.

    The graph must have been lowered for that (``typed=False``).
    """
    return api.has_weak_types and (not api.strongly_typed or options.dla is not None)


def _network_bits(api: Api, names: Sequence[str]) -> int:
    bits = 0
    for name in names:
        bits |= 1 << int(api.member("NetworkDefinitionCreationFlag", name))
    return bits


def _parse(api: Api, network: Any, graph: Path) -> None:
    with api.explained("TensorRT could not read the graph"):
        parser = api.trt.OnnxParser(network, api.logger)
        read = parser.parse_from_file(str(graph))
    if not read:
        raise EngineError(f"{api.title} cannot take the graph: {_parser_words(parser)}")


def _parser_words(parser: Any) -> str:
    words = []
    for number in range(min(parser.num_errors, 3)):
        error = parser.get_error(number)
        name = f"node {error.node()}"
        if hasattr(error, "node_name"):
            name = f"{error.node_name()} ({error.node_operator()})"
        words.append(f"{name}: {' '.join(error.desc().split())}")
    return "; ".join(words) or "and does not say why"


def _set(api: Api, config: Any, request: PlanRequest, *, weak: bool) -> None:
    """Set the flags and limits, each of them pinned, whatever TensorRT's default."""
    for name in _flags(request, weak=weak):
        config.set_flag(api.flag(name))
    if "TF32" not in request.flags:
        config.clear_flag(api.flag("TF32"))  # TensorRT's own default is to have it
    options = request.options
    config.profiling_verbosity = api.trt.ProfilingVerbosity.DETAILED
    config.avg_timing_iterations = options.timings
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(api.trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    _set_newer(api, config, "builder_optimization_level", options.level, 3)
    _set_newer(api, config, "max_aux_streams", options.aux_streams, None)
    if options.hardware != "none":
        level = api.member("HardwareCompatibilityLevel", HARDWARE_LEVELS[options.hardware])
        config.hardware_compatibility_level = level
    if api.is_rtx:
        if hasattr(api.trt.BuilderFlag, _NO_ALLOCATION) and not options.stream:  # which takes memory all the time
            config.set_flag(api.flag(_NO_ALLOCATION))
        config.num_compute_capabilities = 1
        target = api.member("ComputeCapability", require_target(api, request.capability))
        if not config.set_compute_capability(target, 0):
            raise EngineError(f"{api.title} does not build for {dotted(request.capability)}")


def _set_newer(api: Api, config: Any, attribute: str, value: int | None, default: int | None) -> None:
    """Set what came with 8.6; an older TensorRT has the default and nothing else."""
    if hasattr(config, attribute):
        if value is not None:
            setattr(config, attribute, value)
    elif value != default:
        raise Unsupported(f"{api.title} has no {attribute}: it came with 8.6", hint="leave the option out")


def _flags(request: PlanRequest, *, weak: bool) -> list[str]:
    options = request.options
    names = [name for name in request.flags if name != "SPARSE_WEIGHTS" or options.sparse == "auto"]
    wanted = {
        "SPARSE_WEIGHTS": options.sparse == "on",
        "VERSION_COMPATIBLE": options.versions,
        "REFIT": options.refit == "yes",
        "REFIT_IDENTICAL": options.refit == "identical",
        "STRIP_PLAN": options.strip,
        "WEIGHT_STREAMING": options.stream,
        "GPU_FALLBACK": options.dla is not None,
        "EDITABLE_TIMING_CACHE": options.cache == "editable",
        "DISABLE_TIMING_CACHE": options.cache == "off",
    }
    names += [name for name, asked in wanted.items() if asked]
    if weak:
        names += request.weak_flags
        names.append(f"{options.constraints.upper()}_PRECISION_CONSTRAINTS")
    return list(dict.fromkeys(names))


def _add_profile(api: Api, builder: Any, network: Any, config: Any, options: BuildOptions) -> dict[str, str]:
    """Add the optimisation profile that open axes need; return it as settings."""
    inputs = [network.get_input(number) for number in range(network.num_inputs)]
    open_inputs = [tensor for tensor in inputs if any(size < 0 for size in tensor.shape)]
    if not open_inputs:
        if options.batch is not None:
            raise UsageError("--option batch is of a batch axis that stays open, and this graph has none")
        return {}
    profile, settings = builder.create_optimization_profile(), {}
    for tensor in open_inputs:
        shape = tuple(tensor.shape)
        if options.batch is None or shape[0] >= 0 or any(size < 0 for size in shape[1:]):
            hint = "--option batch=1:8:32 is of the first axis"
            raise UsageError(f"input '{tensor.name}' has open axes: {shape}", hint=hint)
        shapes = [(size, *shape[1:]) for size in options.batch]
        with api.explained("TensorRT refused the optimisation profile"):
            profile.set_shape(tensor.name, *shapes)
        settings[f"profile:{tensor.name}"] = " ".join("x".join(map(str, one)) for one in shapes)
    config.add_optimization_profile(profile)
    return settings


def _take_cache(api: Api, config: Any, request: PlanRequest) -> Path | None:
    """Give the builder its timing cache; never RTX's, which would ask the GPU for its kind."""
    if api.is_rtx or request.cache is None or request.options.cache == "off":
        return None
    with api.explained("TensorRT refused the timing cache"):
        cache = config.create_timing_cache(read_cache(request.cache))
        config.set_timing_cache(cache, False)
    return request.cache


def _keep_cache(config: Any, path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    cache = config.get_timing_cache()
    why = None if cache is None else write_cache(path, bytes(cache.serialize()))
    return () if why is None else (why,)


def _told(api: Api, config: Any, request: PlanRequest, network_flags: Sequence[str]) -> dict[str, str]:
    """Return every setting as TensorRT has it now."""
    options = request.options
    told = {
        api.flavour: api.text,
        "capability": dotted(request.capability),
        "network_flags": " ".join(network_flags) or "none",
        "flags": " ".join(api.flag_names(int(config.flags))) or "none",
        "avg_timing_iterations": str(config.avg_timing_iterations),
        "workspace_bytes": str(config.get_memory_pool_limit(api.trt.MemoryPoolType.WORKSPACE)),
        "profiling_verbosity": config.profiling_verbosity.name,
        "timing_cache": "none" if api.is_rtx or request.cache is None else options.cache,
    }
    for name in ("builder_optimization_level", "max_aux_streams"):
        if hasattr(config, name):
            told[name] = str(getattr(config, name))
    if hasattr(config, "hardware_compatibility_level"):
        told["hardware_compatibility_level"] = config.hardware_compatibility_level.name
    if options.dla is not None:
        told["dla_core"] = str(config.DLA_core)
    return told

"""A network written down as a TensorRT plan, for ``hwbench build`` and for ``hwbench profile``.

``model.engine`` (``model.rtx``) is what runs. Beside it lie ``model.onnx``, the typed graph it was built from, which
any ONNX runtime executes; ``build.log``, all that TensorRT said; and ``layers.json``, what its inspector tells of the
engine, where the engine could be loaded (``layers.txt`` of RTX without a GPU: what the build log tells).
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from hwbench.cuda.choose import open_cuda
from hwbench.engines.tensorrt_api import Api, api
from hwbench.engines.tensorrt_batch import open_batch
from hwbench.engines.tensorrt_build import Plan, PlanRequest, build_plan, is_weak, require_target
from hwbench.engines.tensorrt_cache import cache_path
from hwbench.engines.tensorrt_inspect import LAYERS, LAYERS_LOGGED
from hwbench.engines.tensorrt_kernels import cannot_be_had, offer_kernels, why_dense
from hwbench.engines.tensorrt_log import LOG, layers_in, write_log
from hwbench.engines.tensorrt_lower import TypedGraph, lower_graph
from hwbench.engines.tensorrt_options import BuildOptions, read_options
from hwbench.engines.tensorrt_place import Place, attached_place, described_place, is_attached
from hwbench.errors import EngineError, Unsupported, UsageError
from hwbench.protocols import LowerRequest
from hwbench.quantize.nvidia import Flavour
from hwbench.records.base import Missing
from hwbench.records.quantization import Lowered

ENGINE: dict[Flavour, str] = {"tensorrt": "model.engine", "tensorrt-rtx": "model.rtx"}
_TIMED = Missing(
    code="timed",
    why="TensorRT times kernels while it builds and may choose others the next time; the build log tells times, too",
)
_MOST_WARNINGS = 3


def lower(request: LowerRequest, flavour: Flavour) -> Lowered:
    """Build a plan into ``request.folder``.

    Raises:
        Unsupported: what the plan asks for, this version or this GPU has not.
        UsageError: an option is not known, or its batches leave out that of the model.
        DeviceError: the device's compute capability is not known, or CUDA does not show it.
        EngineError: no driver, or TensorRT refuses.
    """
    options = read_options(request.options)
    _require_fit(request, options)
    adapter, place = prepared(request, flavour)
    if adapter.is_rtx and place.cuda is None:
        _require_card(options)
    strong = not is_weak(adapter, options)
    typed = lower_graph(
        request,
        capability=place.capability,
        flavour=flavour,
        typed=strong,
        no_kernels=why_dense(adapter),
        lacks=None if place.cuda is None else cannot_be_had(adapter, place.capability, place.cuda),
    )
    if options.batch is not None:
        open_batch(request.folder / typed.files[0], batch_of(request))
    plan = build(adapter, place, request.folder, typed, options)
    target = ENGINE[flavour]
    (request.folder / target).write_bytes(plan.data)
    write_log(plan.lines, request.folder / LOG)
    files = [target, *typed.files, LOG]
    told = layers_of(adapter, place, plan)
    if told is not None:
        name = LAYERS if place.cuda is not None else LAYERS_LOGGED
        (request.folder / name).write_text(told, encoding="utf-8")
        files.append(name)
    return Lowered(
        files=tuple(files),
        arithmetic=typed.arithmetic,
        settings=plan.settings,
        layers=typed.layers,
        same_bytes=_TIMED,
        notes=(*typed.notes, *notes_of(plan)),
        graph=typed.files[0],
    )


def batch_of(request: LowerRequest) -> int:
    """Return the size of the batch axis.

    Raises:
        Unsupported: the model has none.
    """
    batch = request.model.batch_size
    if isinstance(batch, Missing):
        raise Unsupported(f"'{request.model.name}' has no batch axis: {batch.why}", hint="leave --option batch out")
    return batch


def _require_fit(request: LowerRequest, options: BuildOptions) -> None:
    """Refuse options that the model, or the plan for it, does not go with."""
    if options.batch is not None:
        (low, best, high), batch = options.batch, batch_of(request)
        if not low <= batch <= high:
            raise UsageError(
                f"--option batch={low}:{best}:{high} leaves out {batch}, the batch that the model and its example have",
                hint=f"--batch-size {best} makes it that",
            )
    quantised = {request.plan.default, *request.plan.layers.values()} - {"float"}
    if options.dla is not None and quantised:
        raise Unsupported(
            f"DLA takes no explicit Q/DQ pairs, and {', '.join(sorted(quantised))} is written with them",
            hint="-p fp16 builds for the DLA; -p int8 without --option dla builds for the GPU",
        )


def _require_card(options: BuildOptions) -> None:
    """Refuse what RTX's graph compiler asks the GPU for."""
    asked = [f"--option refit={options.refit}"] * (options.refit != "no") + ["--option strip=yes"] * options.strip
    if asked:
        raise Unsupported(
            f"TensorRT-RTX builds {' and '.join(asked)} on the card only: without one its compiler fails",
            hint="build it on the machine with the card, or leave the option out",
        )


def prepared(request: LowerRequest, flavour: Flavour) -> tuple[Api, Place]:
    """Return the adapter and the place to build for; of full TensorRT the GPU's context is current afterwards.

    Raises:
        EngineError: full TensorRT, and no driver, or the device is not here.
        Unsupported: RTX does not build for that GPU.
    """
    attached = is_attached(request.device)
    if flavour == "tensorrt" and not attached:
        raise EngineError(f"TensorRT builds on the device itself, and '{request.device.name}' is not attached")
    place = attached_place(request.device, flavour) if attached else described_place(request.device)
    adapter = api(flavour)
    if flavour == "tensorrt-rtx":
        require_target(adapter, place.capability)
    else:
        _open_context(place)
    return adapter, place


def build(
    adapter: Api, place: Place, folder: Path, typed: TypedGraph, options: BuildOptions, *, keep: bool = True
) -> Plan:
    """Build the typed graph that lies in ``folder``; ``keep``: with the timing cache of earlier builds and later."""
    cache = None
    if keep and adapter.flavour == "tensorrt" and place.cuda is not None:
        driver = f"{place.cuda[0]}.{place.cuda[1]}"
        capability = f"{place.capability[0]}.{place.capability[1]}"
        cache = cache_path(adapter, place.gpu, capability, driver)
    request = PlanRequest(
        graph=folder / typed.files[0],
        capability=place.capability,
        flags=typed.flags,
        weak_flags=typed.weak_flags,
        options=options,
        cache=cache,
    )
    names = tuple(typed.kernels.values())
    offered = {} if place.cuda is None else offer_kernels(adapter, names, place.cuda, lambda: open_cuda(place.uuid))
    started = time.perf_counter()
    plan = build_plan(adapter, request)
    took = f"{adapter.title} built it in {time.perf_counter() - started:.1f} s"
    adapter.journal.say("INFO", took)
    return replace(plan, settings=plan.settings | offered)


def layers_of(adapter: Api, place: Place, plan: Plan) -> str | None:
    """Return what the inspector tells of a plan: asked where there is a driver, else what the log has of it."""
    if place.cuda is None:
        return layers_in(plan.lines)
    from hwbench.engines.tensorrt_engine import inspected, open_engine

    return inspected(adapter, open_engine(adapter, plan.data))


def notes_of(plan: Plan) -> tuple[str, ...]:
    """Return what is to be known about a build, in words."""
    notes = list(plan.notes)
    if plan.dla is not None:
        notes.append(str(plan.dla))
    if plan.sparsity is not None:
        picked, eligible = plan.sparsity.picked, plan.sparsity.eligible
        named = f": {', '.join(picked)}" if picked else ", a dense kernel being faster for each"
        notes.append(f"2:4 sparse kernels for {len(picked)} of {len(eligible)} layers that could have one{named}")
    said = plan.warnings[:_MOST_WARNINGS]
    notes += [f"TensorRT warned: {text}" for text in said]
    if len(plan.warnings) > len(said):
        notes.append(f"TensorRT warned of {len(plan.warnings) - len(said)} things more: {LOG}")
    return tuple(notes)


def _open_context(place: Place) -> None:
    """Make the GPU's context current: TensorRT builds for the device that is."""
    open_cuda(place.uuid)

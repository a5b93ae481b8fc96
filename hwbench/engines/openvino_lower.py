"""A precision plan written down as an OpenVINO IR (``model.xml`` and ``model.bin``).

1. ``openvino_graph`` reads the float graph and finds the node that does the work of each layer.
2. ``openvino_choice`` settles what each layer gets, and why where that is not what the plan's default asks.
3. ``openvino_place`` says which tensors are quantised, ``openvino_quantize`` writes it.
4. The IR is saved under names that are the same in every build.

Biases, Softmax, LayerNorm and activation functions stay in float.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.engines import openvino_quantize as quantize
from hwbench.engines.edge import DOT_PRODUCTS, refuse_nvidia_only, relied_on, translated
from hwbench.engines.openvino_chains import SETTING, misfused
from hwbench.engines.openvino_choice import Choice, Verdict, choose, refused
from hwbench.engines.openvino_graph import DYNAMIC_GROUP, channel_axes, name_nodes, read_float, works_of
from hwbench.engines.openvino_place import Placement, Point, key_of, readers_of
from hwbench.errors import Unsupported
from hwbench.protocols import LowerRequest
from hwbench.quantize.weights import INT8_LARGEST
from hwbench.records.base import Missing
from hwbench.records.device import Device
from hwbench.records.quantization import Floating, Lowered, PrecisionPlan, TensorRange

if TYPE_CHECKING:
    import openvino as ov

_HINTS: dict[Floating, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_NEEDS: dict[Floating, frozenset[str]] = {
    "bf16": frozenset({"avx512_bf16", "amx_bf16", "bf16"}),
    "fp16": frozenset({"avx512_fp16", "amx_fp16", "fp16"}),
}
_X86 = frozenset({"avx2", "avx512f"})


def lower(request: LowerRequest) -> Lowered:
    """Write the IR of a plan into ``request.folder``.

    Raises:
        Unsupported: a layer cannot have what the plan gives it by name, no layer can have the default, or this CPU has
            no arithmetic for what is asked.
        EngineError: OpenVINO's own tools fail.
    """
    plan = request.plan
    refuse_nvidia_only("openvino", plan)
    _check_device(plan, request.device)
    with translated("OpenVINO refused the model"):
        model = read_float(Path(request.files.folder) / request.files.runtime_graph)
    works = works_of(model, request.model.layers)
    choices = [choose(work, plan) for work in works]
    with translated("quantising for OpenVINO"):
        writer = _Writer(model, choices, request)
        choices = writer.write()
    _check_whole(choices, plan)
    chained = misfused(choices)
    with translated("saving the OpenVINO IR"):
        _save(model, request.folder / "model.xml", halves=plan.floating == "fp16")
    return Lowered(
        files=("model.xml", "model.bin"),
        arithmetic=_arithmetic(choices, plan, request.model.arithmetic),
        settings=_settings(choices, plan) | (SETTING if chained else {}),
        layers=tuple(choice.record() for choice in choices if choice.asked != "float"),
        same_bytes=True,
        isa=relied_on(request.device) if {"int8", "int8-dynamic"} & {choice.got for choice in choices} else (),
        notes=(*writer.notes, *_chain_notes(chained)),
    )


def _chain_notes(chained: Sequence[str]) -> list[str]:
    if not chained:
        return []
    setting = ", ".join(f"{name}={value}" for name, value in SETTING.items())
    named = ", ".join(chained[:3]) + (f" and {len(chained) - 3} more" if len(chained) > 3 else "")
    return [f"{setting}: the CPU plugin computes int8 products that follow each other on few rows wrongly ({named})"]


def _check_device(plan: PrecisionPlan, device: Device) -> None:
    isa = set(device.cpu.isa) if device.cpu is not None else set()
    needed = _NEEDS.get(plan.floating, frozenset())
    if needed and not needed & isa:
        raise Unsupported(
            f"openvino cannot compute in {plan.floating} on '{device.name}': the CPU has no such arithmetic",
            hint="fp32 runs everywhere; int8-weights makes the file smaller",
        )
    if "int8-dynamic" in {plan.default, *plan.layers.values()} and not set(DOT_PRODUCTS) & isa:
        raise Unsupported(
            f"openvino quantises activations on the fly only with VNNI or AMX, and '{device.name}' has neither",
            hint="int8 and int8-weights run everywhere",
        )


def _saturates(device: Device) -> bool:
    """Say whether sums of two u8 x s8 products are kept in 16 bits: x86 without VNNI and AMX (VPMADDUBSW)."""
    isa = set(device.cpu.isa) if device.cpu is not None else set()
    return bool(_X86 & isa) and not set(DOT_PRODUCTS) & isa


class _Writer:
    """Writes choices into a graph."""

    def __init__(self, model: ov.Model, choices: Sequence[Choice], request: LowerRequest) -> None:
        self._model = model
        self._choices = list(choices)
        self._plan = request.plan
        self._steps = INT8_LARGEST
        self._ranges: Mapping[str, TensorRange] = request.calibration.tensors if request.calibration else {}
        self.notes: list[str] = []
        if _saturates(request.device) and any(choice.got == "int8" for choice in choices):
            self._steps = quantize.LARGEST_SATURATING
            self.notes.append(
                "weights in [-63, 63]: without VNNI and AMX, sums of u8 x s8 products saturate at 16 bits"
            )

    def write(self) -> list[Choice]:
        """Quantise, and return the choices as they came out."""
        self._activations()
        for choice in self._choices:
            self._weights(choice)
        return self._choices

    def _activations(self) -> None:
        """Place until every point has a range; a layer that reads a tensor without one stays in float."""
        named = self._named()
        floats = {node.get_name() for name, node in named.items() if self._plan.layers[name] == "float"}
        while True:
            products = {one.work.node.get_name(): one.work.activations for one in self._choices if one.got == "int8"}
            placement = Placement(self._model, products, floats)
            unknown = [point for point in placement.points if self._range(point.source) is None]
            if not unknown:
                break
            for point in unknown:
                for name in _behind(point.readers, products.keys() | placement.companions):
                    floats.add(name)
                    self._leave(name, f"calibration has no range of '{_tensor(point.source)}'")
        self._check_named({name for name, node in named.items() if node.get_name() in placement.companions})
        by_key = {key_of(point.source): point for point in placement.points}
        for point in placement.points:
            self._quantize(point, [by_key[key].source for key in point.tied])

    def _named(self) -> dict[str, Any]:
        """Return the nodes of the layers that the plan names, where OpenVINO knows them by that name."""
        nodes = {node.get_friendly_name(): node for node in self._model.get_ordered_ops()}
        return {name: nodes[name] for name in self._plan.layers if name in nodes}

    def _check_named(self, accompanying: set[str]) -> None:
        chosen = {choice.work.layer.name for choice in self._choices}
        for name, asked in self._plan.layers.items():
            if name not in chosen and asked != "float" and not (asked == "int8" and name in accompanying):
                raise refused(name, asked, "it has no weights, and does not lie between layers in int8")

    def _leave(self, node_name: str, why: str) -> None:
        """Leave the layer of a node in float, or refuse where the plan names it."""
        for index, choice in enumerate(self._choices):
            if choice.got == "int8" and choice.work.node.get_name() == node_name:
                if choice.work.layer.name in self._plan.layers:
                    raise refused(choice.work.layer.name, choice.asked, why)
                self._choices[index] = replace(choice, verdict=Verdict(got="float", why=why))

    def _range(self, source: Any) -> TensorRange | None:
        """Return the range of a tensor by any of its names."""
        return next((self._ranges[name] for name in sorted(source.get_names()) if name in self._ranges), None)

    def _quantize(self, point: Point, tied: Sequence[Any]) -> None:
        ranges = [found for source in (point.source, *tied) if (found := self._range(source)) is not None]
        wide = quantize.union(ranges)
        asymmetric = point.convolved or quantize.is_skewed(wide)
        grid = quantize.asymmetric(wide.low, wide.high) if asymmetric else quantize.symmetric(wide.magnitude)
        quantize.fake_quantize(point.source, grid, f"{_tensor(point.source)}/quantized", point.readers)

    def _weights(self, choice: Choice) -> None:
        node, index = choice.work.node, choice.work.weight
        if choice.got == "float" or index is None:
            return
        rank = len(node.get_input_shape(index))
        if choice.got == "int4-weights":
            quantize.int4_weight(node, index, axis=1 - channel_axes(node, index, rank)[0])
        else:
            static = choice.got == "int8"
            # The plugin multiplies several matrices with scales for each channel wrongly.
            axes = () if static and _is_stacked(node, index) else channel_axes(node, index, rank)
            quantize.int8_weight(node, index, axes, self._steps if static else INT8_LARGEST)


def _is_stacked(node: Any, index: int) -> bool:
    """Say whether the weights of a product are more than one matrix."""
    return bool(node.get_type_name() == "MatMul" and math.prod(node.get_input_shape(index)[:-2]) > 1)


def _behind(readers: Iterable[Any], int8: Set[str]) -> set[str]:
    """Return the int8 nodes that read a point, behind moves too."""
    found: set[str] = set()
    for reader in readers:
        node = reader.get_node()
        found |= {node.get_name()} if node.get_name() in int8 else _behind(readers_of(node), int8)
    return found


def _tensor(source: Any) -> str:
    """Return a name for a tensor: its own, or that of the node that computes it."""
    return str(min(source.get_names(), default=source.get_node().get_friendly_name()))


def _check_whole(choices: Sequence[Choice], plan: PrecisionPlan) -> None:
    """Refuse a plan that comes to nothing, and one whose parts exclude each other."""
    got = {choice.got for choice in choices}
    if plan.default != "float" and got <= {"float"}:
        why = next((choice.verdict.why for choice in choices if choice.verdict.why), "it has no layer with weights")
        raise Unsupported(f"openvino can have no layer of this model in {plan.default}: {why}")
    packed = [one for one in choices if one.got in {"int8-weights", "int4-weights"} and one.work.is_wide_matrix]
    if "int8-dynamic" in got and packed:
        names = ", ".join(one.work.layer.name for one in packed[:3])
        raise Unsupported(
            f"openvino quantises activations on the fly for all products with compressed weights or for none: {names}",
            hint="give all of them int8-dynamic, or none",
        )


def _settings(choices: Sequence[Choice], plan: PrecisionPlan) -> dict[str, str]:
    """Return what the runtime must be told for the plan to hold; both have defaults that would break it."""
    settings = {}
    if plan.floating != "auto":
        settings["INFERENCE_PRECISION_HINT"] = _HINTS[plan.floating]
    got = {choice.got for choice in choices}
    if got & {"int8-dynamic", "int8-weights", "int4-weights"}:
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = str(DYNAMIC_GROUP if "int8-dynamic" in got else 0)
    return settings


def _arithmetic(choices: Sequence[Choice], plan: PrecisionPlan, source: str) -> str:
    """Return in what most multiply-adds are written down."""
    floating = "fp16" if plan.floating == "fp16" else source
    weighed: Counter[str] = Counter()
    for choice in choices:
        macs = choice.work.layer.macs
        quantised = choice.got in {"int8", "int8-dynamic"}
        weighed["int8" if quantised else floating] += 0 if isinstance(macs, Missing) else macs
    return weighed.most_common(1)[0][0] if weighed else floating


def _save(model: ov.Model, path: Path, *, halves: bool) -> None:
    import openvino as ov

    name_nodes(model, "lowered")
    ov.save_model(model, path, compress_to_fp16=halves)

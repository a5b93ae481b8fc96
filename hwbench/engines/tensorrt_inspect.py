"""What TensorRT really built, read from its engine inspector: layers, kernels, precisions, and whose layers they are.

Three spellings are read. They are those of ``EngineInspector.get_engine_information`` (docs.nvidia.com/deeplearning/
tensorrt, "Engine Inspector") of an engine built with ``ProfilingVerbosity.DETAILED``:

* 8.x and early 10.x: JSON, a tensor's type inside ``"Format/Datatype": "Row major linear FP16 format"``;
* later 10.x and 11.x: JSON, ``"Datatype": "Half"`` beside ``"Format"``;
* one line a layer (``LayerInformationFormat.ONELINE``), which TensorRT-RTX also writes into its build log.

An engine with ``LAYER_NAMES_ONLY`` has names alone, and everything else about it is Missing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hwbench.errors import EngineError
from hwbench.graph.members import assign_members
from hwbench.records.base import Missing
from hwbench.records.measurement import BuiltLayer
from hwbench.records.model import Layer

LAYERS = "layers.json"
LAYERS_LOGGED = "layers.txt"  # the same, one line a layer, from the build log
NAMES = {
    "float": "fp32", "fp32": "fp32", "half": "fp16", "fp16": "fp16", "bfloat16": "bf16", "bf16": "bf16", "bf8": "fp8",
    "fp8": "fp8", "int8": "int8", "int4": "int4", "fp4": "fp4", "int32": "int32", "int64": "int64", "bool": "bool",
    "uint8": "uint8",
}  # fmt: skip
_WORD = re.compile(r"\b(bfloat16|bf16|fp32|fp16|fp8|fp4|int8|int4|int32|int64|float|half|bool|uint8)\b", re.IGNORECASE)
_METADATA = re.compile(r"\[ONNX Layer: (.+?)\](?=\s*(?:\[ONNX|\x1e|$))")
_FOREIGN = re.compile(r"\{?ForeignNode\[(.*)\.\.\.(.*)\]\}?")
_WRAPPED = re.compile(r"(?:PWN|QuantizeLinearNode|fc_|node_of_)\((.*)\)")
_SEPARATORS = re.compile(r" \+ | \|\| |, ")
_INSERTED = ("Reformatting CopyNode", "reformat", "Reformat")  # what TensorRT puts between layers of its own accord
_ONELINE = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>[^,]*), Inputs: (?P<rest>.*)$")
_SPARSE = re.compile(r"sparse|spgemm", re.IGNORECASE)
_PRODUCT_KINDS = re.compile(r"correlation|conv|gemm|matrix_?multiply|fullyconnected|einsum", re.IGNORECASE)
_PRODUCT_WORDS = re.compile(r"MulSum|Fc|Corr|Conv|[Gg]emm|mha")  # in names of Myelin's own, such as __myl_FcAddCast
_NO_TACTIC = Missing(code="not_told", why="TensorRT names no kernel for this layer")
_INSIDE = Missing(code="not_told", why="TensorRT's graph compiler made one unit of it, and tells no types inside")
_LATER = Missing(code="compiled_later", why="TensorRT-RTX takes the kernel when the plan is loaded on its GPU")
_NO_TYPE = Missing(code="not_told", why="TensorRT names no type for this layer")


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A layer of an engine. ``sources``: names it goes by, those of source layers among them.

    ``sparse``: whether its kernel is a 2:4 sparse one, None where nothing tells.
    """

    name: str
    kind: str
    precision: str | Missing
    kernel: str | Missing
    sources: tuple[str, ...]
    sparse: bool | None

    @property
    def multiplies(self) -> int:
        """How surely it holds a product: 2 where its type says so, 1 where the name that Myelin made up does."""
        if _PRODUCT_KINDS.search(self.kind):
            return 2
        return int(self.name.startswith("_") and _PRODUCT_WORDS.search(self.name) is not None)


def read_units(text: str) -> tuple[Unit, ...]:
    """Read what the inspector says.

    Raises:
        EngineError: it is in none of the known spellings.
    """
    text = text.strip()
    if text.startswith("{"):
        return tuple(_of_json(text))
    return tuple(_of_lines(text))


def built_layers(units: Sequence[Unit], layers: Sequence[Layer], merged: Mapping[str, str]) -> tuple[BuiltLayer, ...]:
    """Return every unit with the source layers it stands for."""
    members = assign_members(layers, merged, _anchors(units, layers))
    return tuple(
        BuiltLayer(name=unit.name, op=unit.kind, members=belongs, kernel=unit.kernel, precision=unit.precision)
        for unit, belongs in zip(units, members, strict=True)
    )


def _anchors(units: Sequence[Unit], layers: Sequence[Layer]) -> list[list[str]]:
    """Return the names that each unit goes by, those of a source layer for one unit alone.

    TensorRT repeats a layer's name on the kernels that prepare its input (a cast, a quantiser) and on those that finish
    its output. A product is in the unit that is called after it, or that multiplies; what several units could be, the
    last of them is, since the others prepare for it.
    """
    layer_of = {tensor: layer for layer in layers for tensor in layer.outputs} | {each.name: each for each in layers}
    owner: dict[str, tuple[bool, int, int]] = {}
    for number, unit in enumerate(units):
        for layer in filter(None, map(layer_of.get, unit.sources)):
            product = not isinstance(layer.macs, Missing) and layer.macs > 0
            rank = (layer.name in source_names(unit.name), unit.multiplies if product else 0, number)
            owner[layer.name] = max(owner.get(layer.name, rank), rank)
    return [
        [name for name in unit.sources if name not in layer_of or owner[layer_of[name].name][-1] == number]
        for number, unit in enumerate(units)
    ]


def source_names(name: str) -> tuple[str, ...]:
    """Return the names inside a layer's name: ``a + b``, ``a || b``, ``PWN(a, b)``, ``{ForeignNode[a...b]}``."""
    if name.startswith(_INSERTED):
        return ()
    foreign = _FOREIGN.search(name)
    if foreign is not None:
        return (foreign[1], foreign[2])
    found: list[str] = []
    for part in _SEPARATORS.split(name):
        bare = part.strip()
        while (wrapped := _WRAPPED.fullmatch(bare)) is not None:
            bare = wrapped[1]
        bare = bare.removeprefix("PWN(").strip("()")
        found.append(re.sub(r"_myl\d+_\d+$", "", bare))
    return tuple(dict.fromkeys(name for name in found if name))


def _of_json(text: str) -> Iterator[Unit]:
    try:
        layers = json.loads(text).get("Layers", [])
    except (json.JSONDecodeError, AttributeError) as error:
        raise EngineError(f"the engine inspector's answer cannot be read: {error}") from error
    for layer in layers:
        if isinstance(layer, str):  # LAYER_NAMES_ONLY
            yield Unit(
                name=layer,
                kind="layer",
                precision=_NO_TYPE,
                kernel=_NO_TACTIC,
                sources=source_names(layer),
                sparse=None,
            )
        elif isinstance(layer, dict):
            yield _unit(layer)


def _unit(layer: Mapping[str, Any]) -> Unit:
    name, tactic = str(layer.get("Name", "?")), layer.get("TacticName") or None
    kind = str(layer.get("ParameterType") or layer.get("LayerType") or "layer")
    told = layer.get("HasSparseWeights", layer.get("SparseWeights"))
    kernel = _kernel(tactic)
    types = [*_types(layer.get("Inputs")), *_types(layer.get("Outputs"))]
    return Unit(
        name=name,
        kind=kind,
        precision=_INSIDE if _FOREIGN.search(name) else _precision(name, types, tactic),
        kernel=kernel,
        sources=_sources(name, str(layer.get("Metadata") or "")),
        sparse=_sparse(told, tactic),
    )


def _of_lines(text: str) -> Iterator[Unit]:
    lines = [line for line in text.splitlines() if line.strip()]
    for line in lines:
        match = _ONELINE.match(line.strip())
        if match is None:
            raise EngineError(f"the engine inspector's answer cannot be read: {line.strip()[:200]}")
        rest = match["rest"]
        tactic = re.search(r", TacticName: (.*?)(?:, StreamId: |, Metadata: |$)", rest)
        metadata = re.search(r", Metadata: (.*)$", rest)
        types = [NAMES.get(word.lower(), word.lower()) for word in re.findall(r"Datatype: (\w+)", _before(rest))]
        kernel = tactic[1] if tactic else None
        yield Unit(
            name=match["name"],
            kind=match["kind"],
            precision=_INSIDE if _FOREIGN.search(match["name"]) else _precision(match["name"], types, kernel),
            kernel=_kernel(kernel),
            sources=_sources(match["name"], metadata[1] if metadata else ""),
            sparse=_sparse(None, kernel),
        )


def _before(rest: str) -> str:
    """Return what tells of inputs and outputs, without the constants between them."""
    inputs, _, others = rest.partition(", Constants: ")
    return inputs + (", Outputs: " + others.partition(", Outputs: ")[2] if others else "")


def _types(tensors: Any) -> list[str]:
    """Return the types of tensors, in either spelling."""
    found = []
    for tensor in tensors if isinstance(tensors, list) else []:
        told = tensor.get("Datatype") or tensor.get("Format/Datatype") or tensor.get("Format") or ""
        match = _WORD.search(str(told))
        if match is not None:
            found.append(NAMES[match[1].lower()])
    return found


def _precision(name: str, types: Sequence[str], tactic: str | None) -> str | Missing:
    """Return the type of the first input that is arithmetic's; TF32 is fp32 tensors and a kernel of that name.

    A kernel that Myelin wrote may cast its input first, and its name says so: what it then computes in is not told.
    """
    if name.startswith("_") and "Cast" in _PRODUCT_WORDS.split(name, maxsplit=1)[0]:
        return _INSIDE
    numeric = [kind for kind in types if kind not in {"int32", "int64", "bool", "uint8"}]
    kinds = numeric or list(types)
    if not kinds:
        return _NO_TYPE
    if kinds[0] == "fp32" and tactic is not None and "tf32" in tactic.lower():
        return "tf32"
    return kinds[0]


def _kernel(tactic: Any) -> str | Missing:
    if not tactic:
        return _NO_TACTIC
    return _LATER if str(tactic).endswith("CASK_STUB") else str(tactic)


def _sources(name: str, metadata: str) -> tuple[str, ...]:
    told = tuple(dict.fromkeys(_METADATA.findall(metadata)))
    return told or source_names(name)


def _sparse(told: Any, tactic: str | None) -> bool | None:
    if told is not None:
        return bool(int(told)) and (tactic is None or bool(_SPARSE.search(tactic)))
    return None if not tactic or tactic.endswith("CASK_STUB") else bool(_SPARSE.search(tactic))

"""A precision plan, written down for ONNX Runtime's CPU provider.

The file is a portable one: the standard's operators and Q/DQ pairs, with few of ONNX Runtime's own. Its optimiser makes
kernels of them when the file is loaded, for the CPU that it then runs on; a file saved after that is tied to one kind
of CPU, and starts little faster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from hwbench.engines.edge import refuse_nvidia_only, relied_on, translated
from hwbench.engines.onnxruntime_graph import Net, import_microsoft, own_weights, read_hub, save, with_axes
from hwbench.engines.onnxruntime_products import ACCURACY_LEVEL, Product, Rewriter, products_of, to_blocks
from hwbench.engines.onnxruntime_static import Widths, flowing, insert_pairs, widths_on
from hwbench.errors import Unsupported
from hwbench.graph.expose import expose
from hwbench.protocols import LowerRequest
from hwbench.records.base import Missing
from hwbench.records.model import Model, ModelFiles
from hwbench.records.quantization import Lowered, LoweredLayer, PrecisionPlan, Scheme, TensorRange

FILE = "model.onnx"
_WEIGHT_BITS = {"int8-weights": 8, "int4-weights": 4}
_READ = "_DequantizeLinear_Output"  # as ONNX Runtime's tool names what reads a tensor's integers
_LAYERS = {"Conv", "ConvTranspose", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "RNN"}  # what can carry a scheme
_NO_KERNEL = "ONNX Runtime has no int8 kernel for {} on CPUs"
_SLOW_CONV = (
    "ONNX Runtime's ConvInteger takes four (ResNet-50) to nine times (MobileNetV2) as long as the float convolution"
)
_BLOCKS_ONLY = "ONNX Runtime packs the weights of linear layers only (MatMulNBits)"
_TWO_ACTIVATIONS = "a product of two activations: in float it is as fast here, and exact"
_ODD_PRODUCT = "its weight is no constant fp32 matrix, or alpha, beta or the bias are not those of a linear layer"


@dataclass(frozen=True, kw_only=True)
class _Case:
    """What is known when a layer's scheme is decided."""

    net: Net
    products: Mapping[str, Product]
    ranges: Mapping[str, TensorRange]


def lower(request: LowerRequest) -> Lowered:
    """Write the plan down as ``model.onnx`` (and ``model.onnx.data`` where it is large) in ``request.folder``.

    Raises:
        Unsupported: the plan names a layer that cannot have what it asks, no layer can have the default, or half
            precision is asked for, which this provider has no kernels for.
        EngineError: ONNX Runtime's tools fail.
    """
    _require_floating(request.plan, request.model)
    refuse_nvidia_only("onnxruntime", request.plan)
    with translated("ONNX Runtime's tools could not prepare the graph"):
        model = read_hub(Path(request.files.folder) / request.files.runtime_graph)
        if request.plan.needs_ranges:
            model = with_axes(model)
    own_weights(model, _LAYERS)
    net = Net(model)
    ranges = {} if request.calibration is None else request.calibration.tensors
    case = _Case(net=net, products=products_of(net), ranges=ranges)
    layers = _decided(request.plan, case)
    widths = widths_on(request.device)
    with translated("ONNX Runtime's quantisation tools failed"):
        model = _quantised(model, case, request.plan, layers, widths)
        files = save(model, request.folder, FILE)
    return Lowered(
        files=files,
        arithmetic=_arithmetic(request.model, layers),
        settings=_settings(model),
        layers=layers,
        same_bytes=True,
        isa=relied_on(request.device) if {"int8", "int8-dynamic"} & {layer.got for layer in layers} else (),
        notes=_notes(layers, widths, request),
    )


def show_layers(model: Model, files: ModelFiles, folder: Path) -> tuple[Model, ModelFiles]:
    """Write a saved file again with every layer an output too: as the next layer reads it, rounded to its integers.

    Before that an activation may be missing, which is nothing but the edge of the integers' range.
    """
    path = Path(files.folder) / files.runtime_graph
    made = {name for node in onnx.load(path, load_external_data=False).graph.node for name in node.output}
    own = {spec.name for spec in model.outputs}
    read = {name: name.removesuffix(_READ) for name in made if name.endswith(_READ)}
    return expose(model, files, folder, {new: old for new, old in read.items() if old in made and old not in own})


def _require_floating(plan: PrecisionPlan, model: Model) -> None:
    if plan.floating in {"fp16", "bf16"}:
        msg = f"onnxruntime cannot compute in {plan.floating} here: its CPU provider has no such kernels"
        raise Unsupported(msg, hint="use --precision fp32, or another engine")
    if plan.floating == "fp32" and model.arithmetic != "fp32":
        msg = f"onnxruntime was asked for fp32, and the model is written in {model.arithmetic}"
        raise Unsupported(msg, hint="--precision auto keeps the model's own")


def _decided(plan: PrecisionPlan, case: _Case) -> tuple[LoweredLayer, ...]:
    """Return what each layer that the plan wants quantised gets."""
    nodes = {node.name: node for node in case.net.nodes}
    carriers = [node for node in case.net.nodes if node.op_type in _LAYERS and not node.domain]
    for name, scheme in plan.layers.items():
        if scheme != "float" and nodes.get(name) not in carriers:
            what = f"is a {nodes[name].op_type}" if name in nodes else "is not in the graph"
            raise Unsupported(f"onnxruntime cannot run layer '{name}' in {scheme}: it {what}")
    found: list[LoweredLayer] = []
    for node in carriers:
        asked = plan.of(node.name)
        if asked == "float":
            continue
        why = _refusal(node, asked, case, named=node.name in plan.layers)
        if why is not None and node.name in plan.layers:
            raise Unsupported(f"onnxruntime cannot run layer '{node.name}' in {asked}: {why}")
        found.append(LoweredLayer(layer=node.name, asked=asked, got=asked if why is None else "float", why=why))
    by_default = [layer for layer in found if layer.layer not in plan.layers]
    if by_default and all(layer.got == "float" for layer in found):
        reasons = Counter(layer.why for layer in by_default).most_common()
        raise Unsupported(f"onnxruntime can run no layer of this model in {plan.default}: {reasons[0][0]}")
    return tuple(found)


def _refusal(node: onnx.NodeProto, scheme: Scheme, case: _Case, *, named: bool) -> str | None:
    """Return why a layer cannot have a scheme, or should not by default; None where it gets it."""
    if node.op_type in {"Gemm", "MatMul"}:
        return _refused_product(node, scheme, case, named=named)
    if node.op_type != "Conv":
        return _NO_KERNEL.format(node.op_type)
    if scheme == "int8-dynamic":
        return _SLOW_CONV
    return _BLOCKS_ONLY if scheme in _WEIGHT_BITS else _refused_conv(node, case)


def _refused_product(node: onnx.NodeProto, scheme: Scheme, case: _Case, *, named: bool) -> str | None:
    net, product = case.net, case.products.get(node.name)
    if product is not None:
        return _without_range([product.data], case) if scheme == "int8" else None
    if node.op_type == "MatMul" and len(net.activations(node)) == 2:
        if scheme != "int8" or not named:
            return _TWO_ACTIVATIONS if scheme == "int8" else "a product of two activations has no weights"
        return _without_range([*node.input], case)
    return _ODD_PRODUCT


def _refused_conv(node: onnx.NodeProto, case: _Case) -> str | None:
    constants = [name for name in node.input[1:] if name]
    if not all(name in case.net.weights and case.net.is_float32(name) for name in constants):
        return "its weights or bias are no fp32 constants"
    return _without_range([node.input[0], node.output[0]], case)


def _without_range(tensors: list[str], case: _Case) -> str | None:
    lacking = [name for name in tensors if name not in case.ranges]
    return f"calibration found no range for tensor '{lacking[0]}'" if lacking else None


def _quantised(
    model: onnx.ModelProto, case: _Case, plan: PrecisionPlan, layers: tuple[LoweredLayer, ...], widths: Widths
) -> onnx.ModelProto:
    """Return the model with every layer as decided."""
    from onnxruntime.quantization.onnx_model import ONNXModel

    rewriter = Rewriter(model, case.net)
    blocks: dict[int, dict[str, str | None]] = {4: {}, 8: {}}
    static = [layer.layer for layer in layers if layer.got == "int8"]
    for layer in layers:
        product = case.products.get(layer.layer)
        if product is None:
            continue
        if layer.got == "int8":
            rewriter.to_gemm(product)
        elif layer.got == "int8-dynamic":
            rewriter.to_dynamic(product, reduce_range=widths.reduce_range)
        elif layer.got in _WEIGHT_BITS:
            rewriter.to_matmul(product)
            blocks[_WEIGHT_BITS[layer.got]][layer.layer] = rewriter.bias_of(product)
    rewriter.apply()
    if static:
        ranges = {**case.ranges, **{new: case.ranges[of] for new, of in rewriter.same_range.items()}}
        kept = [name for name, scheme in plan.layers.items() if scheme == "float"]
        between = flowing(Net(model), static, kept, ranges)
        model = insert_pairs(model, [*static, *between], ranges, widths)
    for bits, chosen in blocks.items():
        if chosen:
            to_blocks(model, chosen, bits)
            import_microsoft(model)
    whole = ONNXModel(model)
    whole.clean_initializers()
    whole.topological_sort()
    return model


def _arithmetic(model: Model, layers: tuple[LoweredLayer, ...]) -> str:
    """Return in what most multiply-adds are written down; packed weights leave them in floating point."""
    integer = {layer.layer for layer in layers if layer.got in {"int8", "int8-dynamic"}}
    found: Counter[str] = Counter()
    for layer in model.layers:
        if not isinstance(layer.macs, Missing):
            found["int8" if layer.name in integer else model.arithmetic] += layer.macs
    return max(sorted(found), key=found.__getitem__) if found else model.arithmetic


def _settings(model: onnx.ModelProto) -> dict[str, str]:
    """Return what a session is to be told.

    ``SkipLayerNormalization``, which the optimiser makes of an addition and a normalisation, took four times as long as
    the two (ONNX Runtime 1.32, 64 x 512 values): a sixth of an int8 encoder's time.
    """
    settings = {"graph_optimization_level": "ORT_ENABLE_ALL"}
    if any(node.op_type == "LayerNormalization" for node in model.graph.node):
        settings["optimization.disable_specified_optimizers"] = "SkipLayerNormFusion"
    return settings


def _notes(layers: tuple[LoweredLayer, ...], widths: Widths, request: LowerRequest) -> tuple[str, ...]:
    got = {layer.got for layer in layers}
    notes = [f"static int8: {widths.words}"] if "int8" in got else []
    if got & {"int8", "int8-dynamic"} and widths.reduce_range:
        notes.append(
            f"weights of 7 bits (reduce_range): '{request.device.title}' has neither VNNI nor AMX, and its 8-bit "
            "multiplications saturate at 16 bits"
        )
    if got & set(_WEIGHT_BITS):
        notes.append(
            f"packed weights: MatMulNBits at accuracy_level {ACCURACY_LEVEL}, whose kernels may round activations to "
            "int8 block by block"
        )
    return tuple(notes)

"""Layers of an ONNX graph replaced by nodes that stand for a sparse kernel, which TensorRT's parser makes plugins of.

    made = replace_with_kernels(model, {"blocks.3.fc1": "vw16"}, compute_capability=(9, 0))
    made.model, made.packed, made.left_dense

A node is called as its layer was, has the domain ``hwbench`` and the kernel's name (``vw16``, or ``vw16_bias``), and
reads X [n, K] in fp16, the packed arrays, and the bias. The arrays are INT32 whatever they hold, so that no runtime
converts or folds them: the kernel reads bytes. Around it X is brought into that form, and Y back, by operators every
runtime has; of a convolution other than 1x1 the patches are written out before it (:mod:`hwbench.sparse.lowering`). The
attributes ``plugin_namespace``, ``plugin_version`` and ``aot`` are those by which TensorRT's parser finds a quickly
deployable plugin (:mod:`hwbench.sparse.tensorrt_plugin`), the others are the plugin's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from hwbench.errors import UsageError
from hwbench.graph.initializers import add_initializer
from hwbench.graph.linear import Linear, Skipped, linear_layers
from hwbench.records.base import Missing
from hwbench.sparse.formats import FORMATS, Packed
from hwbench.sparse.lowering import Convolution, Lowering, lower_convolution
from hwbench.sparse.manifest import Kernel, kernel_for
from hwbench.sparse.onnx_chain import Chain, add_patches

Array = np.ndarray[Any, np.dtype[Any]]
NAMESPACE = "hwbench"
_WORD = 4
Lacks = Callable[[Kernel], Missing | None]  # why a kernel cannot be had for the GPU and its driver


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """A graph with kernels in it; ``left_dense`` says of each layer that was asked for and is as it was, why.

    ``lowered``: of the convolutions among those with kernels, what bringing them into a product's form moves.
    """

    model: ir.Model
    packed: Mapping[str, Packed]
    kernels: Mapping[str, Kernel]
    left_dense: Mapping[str, Missing]
    lowered: Mapping[str, Lowering]


def words(array: Array) -> Array:
    """Return the bytes of an array as int32, filled up with zeros."""
    data = np.ascontiguousarray(array).tobytes()
    return np.frombuffer(data + bytes(-len(data) % _WORD), np.int32)


def from_words(array: Array, like: Array) -> Array:
    """Return what :func:`words` was given, an array of the shape and type of ``like``."""
    found: Array = np.frombuffer(array.tobytes()[: like.nbytes], like.dtype).reshape(like.shape)
    return found


def replace_with_kernels(
    model: ir.Model,
    layers: Mapping[str, str],
    *,
    kernels: Mapping[str, Kernel],
    compute_capability: tuple[int, int],
    lacks: Lacks | None = None,
) -> Replaced:
    """Replace layers by kernels, in place.

    Args:
        model: a graph in floating point, with inferred shapes.
        layers: by the layer's name, the format its weights are to be packed in.
        kernels: of the manifest.
        compute_capability: of the GPU that the engine is for.
        lacks: asked of a kernel that fits a layer; by default every kernel can be had.

    Raises:
        UsageError: the graph has no such layer, or there is no such format or kernel.
    """
    found = {_name(layer): layer for layer in linear_layers(model)}
    unknown = [name for name in layers if name not in found]
    if unknown:
        raise UsageError(f"no layer with weights is called '{unknown[0]}'", hint=f"there are {', '.join(found)}"[:200])
    packed: dict[str, Packed] = {}
    taken: dict[str, Kernel] = {}
    dense: dict[str, Missing] = {}
    lowered: dict[str, Lowering] = {}
    for name, format_name in layers.items():
        if format_name not in FORMATS:
            raise UsageError(f"there is no sparse format '{format_name}'", hint=f"known: {', '.join(FORMATS)}")
        kernel = kernel_for(kernels, format_name)
        layer = found[name]
        made = _site(layer, kernel, compute_capability)
        if isinstance(made, _Site) and lacks is not None:
            made = lacks(kernel) or made
        if isinstance(made, _Site):
            try:
                packed[name] = FORMATS[format_name].pack(made.weight)
            except ValueError as error:
                made = _dense("not_in_format", str(error), f"prune it for the format: pattern=format:{format_name}")
        if isinstance(made, Missing):
            dense[name] = made
            continue
        _put(model.graph, made, packed[name], kernel, compute_capability)
        taken[name] = kernel
        if (lowering := made.lowering) is not None:
            lowered[name] = lowering
    if taken:
        model.opset_imports[NAMESPACE] = 1
    return Replaced(model=model, packed=packed, kernels=taken, left_dense=dense, lowered=lowered)


@dataclass(frozen=True, kw_only=True)
class LayerProduct:
    """The product ``Y[n, m] = X[n, k] · W[m, k]ᵀ`` that a layer is; ``inputs``: channels of one of its inputs.

    ``convolution`` and ``x_shape``: what it is a convolution of, if it is one.
    """

    m: int
    k: int
    n: int
    inputs: int
    x_shape: tuple[int, ...]
    convolution: Convolution | None = None

    @property
    def lowering(self) -> Lowering | None:
        """What bringing a convolution into this form moves."""
        if self.convolution is None:
            return None
        batch, channels, height, width = self.x_shape
        return lower_convolution(self.convolution, (batch, channels, height, width), self.m)

    def of(self, inputs: int, outputs: int) -> LayerProduct:
        """Return the product that the layer is with so many channels in and out."""
        x_shape = self.x_shape if self.convolution is None else (self.x_shape[0], inputs, *self.x_shape[2:])
        return replace(self, m=outputs, k=self.k // self.inputs * inputs, inputs=inputs, x_shape=x_shape)


def product_of(layer: Linear | Skipped) -> LayerProduct | Missing:
    """Return the product that a layer of fixed shapes is, or why it is none that a kernel could take."""
    if isinstance(layer, Skipped):
        return _dense("unfit_weights", layer.reason)
    convolution = _convolution(layer) if layer.spatial else None
    if isinstance(convolution, Missing):
        return convolution
    sizes, x_shape = _sizes(layer.output), _sizes(layer.input)
    if sizes is None or x_shape is None:
        return _dense("open_shape", "the shapes of its tensors are not fixed", "fix the input shapes with --shapes")
    weight = layer.weight
    outputs, inputs = layer.output_channels, layer.input_channels
    return LayerProduct(
        m=outputs,
        k=weight.size // outputs,
        n=int(np.prod(sizes)) // outputs,
        inputs=inputs,
        x_shape=x_shape,
        convolution=convolution,
    )


@dataclass(frozen=True, kw_only=True)
class _Site:
    """A layer that can be replaced: its matrix, its bias, how many rows X has; what kind of convolution it is."""

    layer: Linear
    weight: Array
    bias: Array | None
    shape: tuple[int, ...]  # of the output
    product: LayerProduct

    @property
    def lowering(self) -> Lowering | None:
        return self.product.lowering


def _name(layer: Linear | Skipped) -> str:
    return layer.name if isinstance(layer, Linear) else layer.layer


def _dense(code: str, why: str, cure: str | None = None) -> Missing:
    return Missing(code=code, why=why, cure=cure)


def _site(layer: Linear | Skipped, kernel: Kernel, compute_capability: tuple[int, int]) -> _Site | Missing:
    """Return what is replaced, or why the layer stays dense."""
    if isinstance(layer, Skipped):
        return _dense("unfit_weights", layer.reason)
    arch = compute_capability[0] * 10 + compute_capability[1]
    if arch < kernel.archs[0]:
        return _dense("old_gpu", f"{kernel.name} needs sm_{kernel.archs[0]}, and the GPU is sm_{arch}")
    product = product_of(layer)
    if isinstance(product, Missing):
        return product
    block = layer.blocks()
    weight = block[0].reshape(block.shape[1], -1)
    m, k = weight.shape
    why = kernel.shape.refuses(n=product.n, m=m, k=k) or FORMATS[kernel.format].refuses(m, k)
    if why:
        return _dense("outside_contract", f"{kernel.name}: {why}")
    shape = _sizes(layer.output)
    assert shape is not None
    return _Site(layer=layer, weight=weight, bias=layer.bias(), shape=shape, product=product)


def _sizes(value: ir.Value) -> tuple[int, ...] | None:
    """Return the shape of a tensor, or None where an axis of it is open."""
    return tuple(value.shape.numpy()) if value.shape is not None and value.shape.is_static() else None


def _convolution(layer: Linear) -> Convolution | Missing:
    """Return what convolution a layer is, or why it is no product of patches."""
    node, size = layer.node, layer.weight.shape[2:]
    if node.op_type == "ConvTranspose" or layer.groups > 1:
        return _dense("no_product", f"it is a {node.op_type} of {layer.groups} groups", "leave it dense")
    if (attribute := node.attributes.get("auto_pad")) is not None and attribute.as_string() not in {"NOTSET", "VALID"}:
        return _dense("no_product", "its padding is left to the runtime", "write its pads down")
    if len(size) != 2:
        return _dense("no_product", f"its kernel has {len(size)} axes, not 2", "leave it dense")
    top, left, bottom, right = _integers(node, "pads", (0, 0, 0, 0))
    return Convolution(
        kernel=(size[0], size[1]),
        strides=_pair(_integers(node, "strides", (1, 1))),
        pads=(top, left, bottom, right),
        dilations=_pair(_integers(node, "dilations", (1, 1))),
    )


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    first, second = values
    return first, second


def _integers(node: ir.Node, name: str, default: Sequence[int]) -> tuple[int, ...]:
    attribute = node.attributes.get(name)
    return tuple(attribute.as_ints() if attribute is not None else default)


def _put(graph: ir.Graph, site: _Site, packed: Packed, kernel: Kernel, compute_capability: tuple[int, int]) -> None:
    """Put the kernel's node, and what brings X and Y into their forms, in the layer's place."""
    layer, (m, k) = site.layer, packed.shape
    rows, half = site.product.n, ir.DataType.FLOAT16
    old, last = layer.output, layer.add or layer.node
    dtype = old.dtype or ir.DataType.FLOAT
    x_shape, convolution = site.product.x_shape, site.product.convolution
    chain = Chain(graph, last, layer.input, layer.name)
    if dtype != half:
        chain.add("Cast", x_shape, half, to=half.value, name=f"{layer.name}/to_fp16")
    if convolution is not None and not convolution.pointwise:
        add_patches(chain, convolution, x_shape, half)
    elif layer.spatial:
        swapped = (x_shape[0], *x_shape[2:], x_shape[1])
        chain.add("Transpose", swapped, half, perm=[0, 2, 3, 1], name=f"{layer.name}/channels_last")
    chain.reshape((rows, k), half)
    _kernel(graph, chain, site, packed, kernel, compute_capability)
    if layer.spatial:
        chain.reshape((site.shape[0], *site.shape[2:], m), half)
        chain.add("Transpose", site.shape, half, perm=[0, 3, 1, 2], name=f"{layer.name}/channels_first")
    chain.reshape(site.shape, half)
    if dtype != half:
        chain.add("Cast", site.shape, dtype, to=dtype.value, name=f"{layer.name}/from_fp16")
    _take_over(graph, old, chain.value, [node for node in (layer.add, layer.node) if node is not None])


def _kernel(
    graph: ir.Graph, chain: Chain, site: _Site, packed: Packed, kernel: Kernel, compute_capability: tuple[int, int]
) -> None:
    name, rows = site.layer.name, site.product.n
    site.layer.node.name = f"{name}.dense"
    given = [add_initializer(graph, f"{name}.{key}", words(array)) for key, array in packed.arrays.items()]
    if site.bias is not None:
        given.append(add_initializer(graph, f"{name}.bias_fp16", site.bias.astype(np.float16)))
    chain.add(
        plugin_name(kernel, bias=site.bias is not None),
        (rows, packed.shape[0]),
        ir.DataType.FLOAT16,
        *given,
        domain=NAMESPACE,
        name=name,
        plugin_namespace=NAMESPACE,
        plugin_version="1",
        aot=1,
        **attributes_of(packed, compute_capability),
    )


def plugin_name(kernel: Kernel, *, bias: bool) -> str:
    """Return the name of the plugin, and of the operator, for a kernel with or without a bias."""
    return f"{kernel.name}_bias" if bias else kernel.name


def attributes_of(packed: Packed, compute_capability: tuple[int, int]) -> dict[str, int]:
    """Return a plugin's own attributes, in the order in which its definition has them."""
    m, k = packed.shape
    return {"m": m, "k": k, **packed.scalars, "sm": compute_capability[0] * 10 + compute_capability[1]}


def _take_over(graph: ir.Graph, old: ir.Value, new: ir.Value, gone: Sequence[ir.Node]) -> None:
    """Let ``new`` be read wherever ``old`` was, under its name, and take away what made ``old``."""
    name = old.name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    old.name, new.name = f"{name}.dense", name
    for node in gone:
        given = [value for value in node.inputs if value is not None]
        graph.remove(node, safe=True)
        for value in given:
            if value.is_initializer() and not value.uses() and not value.is_graph_output():
                graph.initializers.pop(value.name or "", None)

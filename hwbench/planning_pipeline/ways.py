"""What a runtime may run each layer as, beside floating point: precisions, and zeros for kernels that skip them.

* *Precisions*: what the engine says that the layer can have on this device, as far as the device has the arithmetic.
  Of an engine that cannot say so before it builds: int8, for every layer that multiplies.
* *Zeros*: for the product that a layer is, hwbench's kernels that beat every dense product that the layer may be
  instead (fp16, and int8 or int4 weights where these are offered), by the crossover table of the GPU. Of those the ones
  that no other one makes superfluous: as fast, with no larger units, no fewer bits and no more zeros.

Each runtime has its own; losses are measured once for all of them together, and are tied to options by their names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, cast, get_args

import onnx_ir as ir

from hwbench import plugins
from hwbench.errors import Unsupported
from hwbench.graph.linear import Linear, linear_layers, linear_of
from hwbench.inventory import Away, Target
from hwbench.plan.clusters import owners
from hwbench.planning_pipeline.ratios import Ratio, Ratios
from hwbench.prediction.legality import check_scheme
from hwbench.prediction.machine import Machine
from hwbench.protocols import Engine, TakesKernels, TellsSchemes
from hwbench.quantize.nvidia import Flavour, capability_of, legal
from hwbench.records.base import Missing
from hwbench.records.planning import TWO_FOUR, NotOffered, Option, SparseCost, Zeros, name_of
from hwbench.records.quantization import Floating, Scheme
from hwbench.sparse.apply import NO_PLUGINS
from hwbench.sparse.formats import FORMATS
from hwbench.sparse.manifest import kernel_for
from hwbench.sparse.onnx_kernels import LayerProduct, product_of
from hwbench.structure.blocks import PRODUCTS

LEAST_GAIN: Final = 1.05  # over the best dense product: what gains less is not worth measuring its loss
_AS_FAST: Final = 1.02  # times that are no further apart are alike
_TOGETHER: Final = {
    "gap4": 1,
    "bitmap": 1,
    "s24": 4,
    "vw16": 16,
    "bsr16": 256,
    "bsr32": 1024,
}  # weights that go at once
_UNTIMED_2_4: Final = "2:4 with the runtime's own kernels is offered only where it was timed faster; nothing was timed"
_HALF: Final = frozenset[Floating]({"auto", "fp16"})  # what dense products are in that kernels are held against


@dataclass(frozen=True, kw_only=True)
class Ways:
    """What one runtime may run layers as.

    ``options``: by layer, beside float. ``sparse``: what the kernels among them make of a layer's time at full size.
    ``products``: what layers multiply, and ``ratios`` what is known of these at any size. ``one_of``: schemes of which
    one network may have but one.
    """

    options: Mapping[str, tuple[Option, ...]] = field(default_factory=dict)
    sparse: tuple[SparseCost, ...] = ()
    not_offered: tuple[NotOffered, ...] = ()
    notes: tuple[str, ...] = ()
    products: Mapping[str, LayerProduct] = field(default_factory=dict)
    ratios: Ratios | None = None
    one_of: tuple[Scheme, ...] = ()

    @property
    def remarks(self) -> dict[tuple[str, str], str]:
        """What is to be told of an option with zeros, by the names of its site and of the option."""
        found = {}
        for each in self.sparse:
            name = name_of(each.zeros, each.scheme)
            found[f"precision:{each.cluster}", name] = f"{name} takes {each.ratio:.2f} of the dense layer: {each.why}"
        return found


@dataclass(frozen=True, kw_only=True)
class _Zeros:
    costs: tuple[SparseCost, ...] = ()
    left: tuple[NotOffered, ...] = ()
    notes: tuple[str, ...] = ()


def ways_of(
    hub: ir.Model,
    engine_name: str,
    floating: Floating,
    target: Target,
    *,
    ratios: Ratios | Missing,
    machine: Machine | None = None,
) -> Ways:
    """Return what a runtime may run the layers of a network as.

    Args:
        hub: the network, its shapes inferred.
        engine_name: of the runtime's plugin.
        floating: the arithmetic of what is not quantised.
        target: the device.
        ratios: what kernels make of products there, or why nobody knows.
        machine: what is known of a device that is not attached.
    """
    engine: Engine = plugins.load("engines", engine_name)
    schemes = _schemes(hub, engine, target, machine)
    options = {
        layer: tuple(Option(name=scheme, scheme=scheme) for scheme, why in some.items() if why is None)
        for layer, some in schemes.items()
    }
    products = _products(hub, options) if isinstance(engine, TakesKernels) else {}
    zeros = _zeros(engine, floating, ratios, options, products)
    has_2_4 = _has_2_4(engine_name, target)
    if has_2_4 and not isinstance(target, Away):
        options = {layer: (*some, *_two_four(hub, layer, some)) for layer, some in options.items()}
    for cost in zeros.costs:
        options[cost.cluster] += (Option(name=name_of(cost.zeros), scheme="float", zeros=cost.zeros),)
    refused = (
        NotOffered(layer=layer, way=scheme, reason=why)
        for layer, some in schemes.items()
        for scheme, why in some.items()
        if why is not None
    )
    return Ways(
        options=options,
        sparse=zeros.costs,
        not_offered=(*refused, *zeros.left),
        notes=(*zeros.notes, *((_UNTIMED_2_4,) if has_2_4 and isinstance(target, Away) else ())),
        products={name: each for name, each in products.items() if not isinstance(each, Missing)},
        ratios=None if isinstance(ratios, Missing) else ratios,
        one_of=engine.one_of if isinstance(engine, TellsSchemes) else (),
    )


def knows_kernels(engine_name: str) -> bool:
    """Say whether a runtime takes hwbench's kernels, or says that it takes none: it is for the GPUs of these."""
    return isinstance(plugins.load("engines", engine_name), TakesKernels)


def _schemes(
    hub: ir.Model, engine: Engine, target: Target, machine: Machine | None
) -> dict[str, dict[Scheme, Missing | None]]:
    """Return by layer that multiplies the schemes it could have, and why not."""
    firsts = set(owners(hub).values())
    names = [node.name or "" for node in hub.graph if node.op_type in PRODUCTS and node.name in firsts]
    told = engine.layer_schemes(hub, target.device) if isinstance(engine, TellsSchemes) else {}
    found: dict[str, dict[Scheme, Missing | None]] = {}
    for name in names:
        mine: Mapping[Scheme, Missing | None] = {"int8": told if isinstance(told, Missing) else None}
        if not isinstance(told, Missing) and isinstance(engine, TellsSchemes):
            mine = told.get(name, {})
        found[name] = {scheme: why or _no_arithmetic(machine, scheme) for scheme, why in mine.items()}
    return found


def _no_arithmetic(machine: Machine | None, scheme: Scheme) -> Missing | None:
    if machine is None:
        return None
    try:
        check_scheme(machine, scheme)
    except Unsupported as error:
        return Missing(code="no_arithmetic", why=error.message, cure=error.hint)
    return None


def _zeros(
    engine: Engine,
    floating: Floating,
    ratios: Ratios | Missing,
    options: Mapping[str, Sequence[Option]],
    products: Mapping[str, LayerProduct | Missing],
) -> _Zeros:
    """Return the zeros that layers are offered, and why others are not."""
    if not isinstance(engine, TakesKernels):
        return _Zeros()
    none: str | None = None
    if not engine.takes_kernels:
        none = NO_PLUGINS.why
    elif floating not in _HALF:
        none = f"kernels compute in fp16, and what is not quantised is to be {floating}"
    elif isinstance(ratios, Missing):
        none = str(ratios)
    if none is not None or isinstance(ratios, Missing):
        return _Zeros(notes=(f"no zeros are offered, all layers are dense: {none}",))
    able = {name: product for name, product in products.items() if not isinstance(product, Missing)}
    left = [
        NotOffered(layer=name, way="zeros", reason=product)
        for name, product in products.items()
        if isinstance(product, Missing)
    ]
    ratios.prepare(able.values())
    costs: list[SparseCost] = []
    for name, product in able.items():
        found = offered(ratios, product, values_of(options[name]))
        if isinstance(found, Missing):
            left.append(NotOffered(layer=name, way="zeros", reason=found))
        else:
            costs += (_cost(name, each) for each in found)
    return _Zeros(costs=tuple(costs), left=tuple(left))


def _products(hub: ir.Model, names: Collection[str]) -> dict[str, LayerProduct | Missing]:
    """Return the products that layers with weights are, or why they are none."""
    layers = {(layer.name if isinstance(layer, Linear) else layer.layer): layer for layer in linear_layers(hub)}
    return {name: product_of(layer) for name, layer in layers.items() if name in names}


def values_of(options: Iterable[Option]) -> tuple[str, ...]:
    """Return what the weights of a dense layer may be held in, by what it is offered; kernels must beat all of it."""
    schemes = {option.scheme for option in options}
    eight = ("int8",) if schemes & {"int8", "fp8", "int8-weights"} else ()
    return ("fp16", *eight, *(("int4",) if "int4-weights" in schemes else ()))


def offered(ratios: Ratios, product: LayerProduct, values: Sequence[str]) -> tuple[Ratio, ...] | Missing:
    """Return the kernels that are worth offering a layer for zeros, or why it stays dense."""
    found = ratios.gains(product, values)
    if not found:
        return _outside(ratios, product)
    best = found[0]
    paying = [each for each in found if each.pays and each.gain >= LEAST_GAIN]
    if not paying:
        name, little = name_of(best.zeros), f", too little (below {LEAST_GAIN:g})" if best.pays else ""
        return Missing(code="no_gain", why=f"{name} is the best kernel{little}: {best.why}")
    return tuple(each for each in paying if not any(_superfluous(each, other) for other in paying))


def _outside(ratios: Ratios, product: LayerProduct) -> Missing:
    """Say why no kernel has a time for a product."""
    m, k, n = product.m, product.k, product.n
    refusals: Counter[str] = Counter()
    for name, format_ in FORMATS.items():
        why = kernel_for(ratios.kernels, name).shape.refuses(n=n, m=m, k=k) or format_.refuses(m, k)
        refusals.update([] if why is None else [why])
    if sum(refusals.values()) == len(FORMATS):
        return Missing(code="outside_contract", why=refusals.most_common(1)[0][0])
    return Missing(
        code="not_in_table", why=f"no table has a product near {m}x{k}, N = {n}", cure="hwbench kernels measures it"
    )


def _superfluous(one: Ratio, other: Ratio) -> bool:
    """Say whether another kernel is as fast, with no larger units, no fewer bits and no more zeros."""
    if other is one or other.ratio > _AS_FAST * one.ratio:
        return False
    mine, its = _demands(one.zeros), _demands(other.zeros)
    return all(a >= b for a, b in zip(mine, its, strict=True)) and (mine != its or other.ratio < one.ratio)


def _demands(zeros: Zeros) -> tuple[float, float, float]:
    base = zeros.format.removesuffix("_int8")
    return _TOGETHER[base], float(base != zeros.format), zeros.sparsity


def _cost(layer: str, found: Ratio) -> SparseCost:
    basis = found.basis
    return SparseCost(
        cluster=layer, zeros=found.zeros, ratio=found.ratio, basis="table" if basis == "measured" else "model",
        why=found.why,
    )  # fmt: skip


def _has_2_4(engine_name: str, target: Target) -> bool:
    """Say whether a runtime has kernels of its own for 2:4 on a device."""
    gpu = target.device.gpu
    if engine_name not in get_args(Flavour) or gpu is None or isinstance(gpu.compute_capability, Missing):
        return False
    return legal(capability_of(gpu.compute_capability), cast("Flavour", engine_name))["2:4"] is None


def _two_four(hub: ir.Model, layer: str, options: Sequence[Option]) -> Iterator[Option]:
    """Return the options of 2:4 of a layer whose inputs divide by four: to be timed, and kept where they are faster."""
    nodes = {node.name: node for node in hub.graph}
    linear = linear_of(nodes[layer])
    if not isinstance(linear, Linear) or isinstance(product_of(linear), Missing) or linear.input_channels % 4:
        return
    zeros = Zeros(format=TWO_FOUR, sparsity=0.5)
    able: tuple[Scheme, ...] = ("float", "int8")
    for scheme in able[: 1 + any(option.scheme == "int8" for option in options)]:
        yield Option(name=name_of(zeros, scheme), scheme=scheme, zeros=zeros)


def with_timed(ways: Ways, costs: Sequence[SparseCost]) -> Ways:
    """Return ways with what zeros were timed to make of layers, which goes before what a table says of them.

    What was timed and gains nothing is not offered, and neither is 2:4 that was not timed.
    """
    known = {(each.cluster, each.scheme, each.zeros) for each in costs}
    others = tuple(each for each in ways.sparse if (each.cluster, each.scheme, each.zeros) not in known)
    two_four = [each for each in costs if each.zeros.format == TWO_FOUR]
    faster = sum(each.gains for each in two_four)
    told = (f"2:4 with the runtime's own kernels was timed, and is faster at {faster} of {len(two_four)}",)
    return replace(
        ways,
        sparse=(*costs, *others),
        not_offered=(*ways.not_offered, *_untimed(ways, known), *_no_faster(costs)),
        notes=(*ways.notes, *(told if two_four else ())),
    )


def _untimed(ways: Ways, known: Collection[tuple[str, Scheme, Zeros | None]]) -> Iterator[NotOffered]:
    for layer, options in ways.options.items():
        for each in options:
            mine = each.zeros is not None and each.zeros.format == TWO_FOUR
            if mine and (layer, each.scheme or "float", each.zeros) not in known:
                why = f"{each.name} was not timed; it is offered only where it was timed to be faster"
                yield NotOffered(layer=layer, way="zeros", reason=Missing(code="not_timed", why=why))


def _no_faster(costs: Iterable[SparseCost]) -> Iterator[NotOffered]:
    for each in costs:
        if not each.gains:
            why = f"{name_of(each.zeros, each.scheme)} is no faster than the dense layer: {each.why}"
            yield NotOffered(layer=each.cluster, way="zeros", reason=Missing(code="not_faster", why=why))


def union(some: Iterable[Ways]) -> dict[str, tuple[Option, ...]]:
    """Return by layer what any of several runtimes may run it as."""
    found: dict[str, dict[str, Option]] = {}
    for ways in some:
        for layer, options in ways.options.items():
            found.setdefault(layer, {}).update((option.name, option) for option in options)
    return {layer: tuple(options.values()) for layer, options in found.items()}

"""Rows put together by module or by op.

A row is never split: what one unit does for layers of two modules belongs to both, and is shown under both names. So
the groups add up as the rows do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from hwbench.records.difference import DifferenceRow, RowKind, share_of
from hwbench.records.model import Layer

INSERTED = "inserted by the runtime"
TOP = "(no module)"


def by_module(
    rows: Sequence[DifferenceRow], layers: Mapping[str, Layer], depth: int, *, whole_s: float
) -> list[DifferenceRow]:
    """Gather rows by the first ``depth`` parts of their layers' module path; ``whole_s`` is what shares are of.

    A layer of an ONNX model that knows no modules goes by its name, whose parts are set apart by ``/`` or ``.``,
    without the last; a name of one part is in no module.
    """
    return _gathered(rows, lambda row: [module_prefix(layers[name], depth) for name in row.layers], whole_s)


def by_op(rows: Sequence[DifferenceRow], *, whole_s: float) -> list[DifferenceRow]:
    """Gather rows by the ops of their layers; a fused row keeps all of its ops."""
    return _gathered(rows, lambda row: row.ops, whole_s)


def module_prefix(layer: Layer, depth: int) -> str:
    """Return the first ``depth`` parts of the layer's module path."""
    if layer.module is not None:
        parts = layer.module.split(".")
    else:
        separator = "/" if "/" in layer.name else "."
        parts = [part for part in layer.name.split(separator) if part][:-1]
        if not parts:
            return TOP
        return separator.join(parts[:depth])
    return ".".join(parts[:depth])


def _gathered(
    rows: Sequence[DifferenceRow], keys: Callable[[DifferenceRow], Sequence[str]], whole_s: float
) -> list[DifferenceRow]:
    groups: dict[str, list[DifferenceRow]] = {}
    for row in rows:
        key = " + ".join(dict.fromkeys(keys(row))) if row.layers else INSERTED
        groups.setdefault(key, []).append(row)
    return [_merged(key, found, whole_s) for key, found in groups.items()]


def _merged(group: str, rows: Sequence[DifferenceRow], whole_s: float) -> DifferenceRow:
    difference_s = math.fsum(row.difference_s for row in rows)
    kinds: dict[RowKind, None] = dict.fromkeys(kind for row in rows for kind in row.kinds)
    return DifferenceRow(
        kinds=tuple(kinds),
        group=group,
        layers=tuple(name for row in rows for name in row.layers),
        ops=tuple(dict.fromkeys(op for row in rows for op in row.ops)),
        a=tuple(unit for row in rows for unit in row.a),
        b=tuple(unit for row in rows for unit in row.b),
        a_s=math.fsum(row.a_s for row in rows),
        b_s=math.fsum(row.b_s for row in rows),
        difference_s=difference_s,
        share=share_of(difference_s, whole_s),
    )

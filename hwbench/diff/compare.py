"""Two measurements compared layer by layer, down to a residual that makes the column add up."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from hwbench.diff.align import Piece, align, inserted
from hwbench.diff.alike import check_alike, unlike
from hwbench.diff.gather import by_module, by_op
from hwbench.errors import InvalidMeasurement, StorageError, UsageError
from hwbench.records.base import Missing
from hwbench.records.difference import (
    LAYER_DIFFERENCE_SCHEMA,
    DifferenceRow,
    Grouping,
    LayerDifference,
    Name,
    Residual,
    RowKind,
    Side,
    share_of,
)
from hwbench.records.measurement import LayerTable, Measurement, ProfileResult
from hwbench.records.model import Layer, Model

_UNLIKE = 0.5  # profiling itself adds some tens of percent to inferences of microseconds

Run = tuple[ProfileResult, Measurement]


def compare(a: Run, b: Run, *, grouping: Grouping = "unit", depth: int = 1) -> LayerDifference:
    """Return the difference B minus A, largest rows first.

    Args:
        a: a result and one of its measurements.
        b: another; the same result may be given twice.
        grouping: one row for each piece that both sides tell apart (``unit``), or pieces gathered.
        depth: how many parts of the module path make a group; used with ``module`` alone.

    Raises:
        UsageError: the two are not of one network, or are one and the same measurement.
        InvalidMeasurement: one has no per-layer times.
        StorageError: units and layers of a result do not belong together.
    """
    if a[1] == b[1]:
        raise UsageError(f"A and B are the same measurement, {a[1].label}", hint="name two: --a ENGINE --b ENGINE")
    check_alike(a[0].model, b[0].model)
    tables = _table(*a, "A"), _table(*b, "B")
    sides = _side(*a, tables[0], "A"), _side(*b, tables[1], "B")
    difference = sides[1].median_s - sides[0].median_s
    rows = list(_rows(tables, (a[0].model, b[0].model), difference))
    residual = _residual(tables, sides, rows)
    layers = {layer.name: layer for model in (b[0].model, a[0].model) for layer in model.layers}
    if grouping == "module":
        rows = by_module(rows, layers, depth, whole_s=difference)
    elif grouping == "op":
        rows = by_op(rows, whole_s=difference)
    return LayerDifference(
        schema_version=LAYER_DIFFERENCE_SCHEMA,
        a=sides[0],
        b=sides[1],
        difference_s=difference,
        low_s=sides[1].median_low_s - sides[0].median_high_s,
        high_s=sides[1].median_high_s - sides[0].median_low_s,
        grouping=grouping,
        depth=depth if grouping == "module" else None,
        rows=tuple(sorted(rows, key=lambda row: -abs(row.difference_s))),
        residual=residual,
        notes=(*unlike(a[0].model, b[0].model), *_notes(a, b), *(note for side in sides for note in _strained(side))),
    )


def _table(result: ProfileResult, measurement: Measurement, name: Name) -> LayerTable:
    table = measurement.layers
    if isinstance(table, Missing):
        raise InvalidMeasurement(
            f"{name} ({measurement.label}) has no per-layer times: {table.why}",
            hint=table.cure
            or "profile again in latency mode, without --no-layers, on an engine that tells per-layer times",
        )
    members = {member for row in table.rows for member in row.unit.members}
    if unknown := members - {layer.name for layer in result.model.layers}:
        raise StorageError(
            f"{name} ({measurement.label}) has units of layers that its model has not: {', '.join(sorted(unknown))}",
            hint="the file is damaged",
        )
    return table


def _side(result: ProfileResult, measurement: Measurement, table: LayerTable, name: Name) -> Side:
    latency = measurement.latency
    if isinstance(latency, Missing):
        raise InvalidMeasurement(f"{name} ({measurement.label}) has no latency: {latency}")
    return Side(
        name=name,
        run_id=result.run_id,
        model=result.model.name,
        hub_sha256=result.model.hub_sha256,
        device=result.device.title,
        fingerprint=result.device.fingerprint,
        engine=measurement.engine,
        version=measurement.built.version,
        precision=measurement.built.precision,
        precision_asked=measurement.precision_asked,
        threads=measurement.settings.threads,
        status=measurement.validity.status,
        median_s=latency.median_s,
        median_low_s=latency.median_low_s,
        median_high_s=latency.median_high_s,
        iterations=table.iterations,
        profiling_overhead=table.profiling_overhead,
        method=table.method,
    )


def _rows(
    tables: tuple[LayerTable, LayerTable], models: tuple[Model, Model], whole_s: float
) -> Iterator[DifferenceRow]:
    a, b = ({layer.name: layer for layer in model.layers} for model in models)
    layers = {**b, **a}
    pieces: list[tuple[RowKind, Piece]] = [
        (_kind(piece, a, b), piece) for piece in align(tables[0].rows, tables[1].rows, [*a, *b])
    ]
    if units := inserted(tables[0].rows):
        pieces.append(("inserted_in_a", Piece(layers=(), a=units, b=())))
    if units := inserted(tables[1].rows):
        pieces.append(("inserted_in_b", Piece(layers=(), a=(), b=units)))
    for kind, piece in pieces:
        a_s, b_s = (math.fsum(unit.scaled_s for unit in units) for units in (piece.a, piece.b))
        yield DifferenceRow(
            kinds=(kind,),
            group=None,
            layers=piece.layers,
            ops=tuple(dict.fromkeys(layers[name].op for name in piece.layers)),
            a=piece.a,
            b=piece.b,
            a_s=a_s,
            b_s=b_s,
            difference_s=b_s - a_s,
            share=share_of(b_s - a_s, whole_s),
        )


def _kind(piece: Piece, a: Mapping[str, Layer], b: Mapping[str, Layer]) -> RowKind:
    if piece.a and piece.b:
        return "both"
    if piece.a:
        return "unseen_in_b" if any(name in b for name in piece.layers) else "only_in_a"
    return "unseen_in_a" if any(name in a for name in piece.layers) else "only_in_b"


def _residual(
    tables: tuple[LayerTable, LayerTable], sides: tuple[Side, Side], rows: Sequence[DifferenceRow]
) -> Residual:
    """Return what the rows leave over; computed from the rows, so that the column adds up whatever was rounded."""
    a_s, b_s = (
        side.median_s - math.fsum(row.scaled_s for row in table.rows) for side, table in zip(sides, tables, strict=True)
    )
    whole_s = sides[1].median_s - sides[0].median_s
    rest_s = whole_s - math.fsum(row.difference_s for row in rows)
    return Residual(a_s=a_s, b_s=b_s, difference_s=rest_s, share=share_of(rest_s, whole_s))


def _notes(a: Run, b: Run) -> Iterator[str]:
    """Tell what else differs between the two, and what speaks against either."""
    (one, m), (other, n) = a, b
    if one.model.hub_sha256 != other.model.hub_sha256:
        first, second = ({layer.name for layer in result.model.layers} for result in (one, other))
        yield (
            f"the models are not the same file: {len(first & second)} layers bear the same name in both, "
            f"{len(first - second)} are only in A, {len(second - first)} only in B"
        )
    for what, left, right in (
        ("device", _device(one), _device(other)),
        ("batch size", one.model.batch_size, other.model.batch_size),
        ("threads", m.settings.threads, n.settings.threads),
    ):
        if left != right:
            yield f"the two were taken differently: {what} is {left} in A, {right} in B"
    if m.engine == n.engine and m.built.version != n.built.version:
        yield f"{m.engine} is version {m.built.version} in A, {n.built.version} in B"
    for name, measurement in (("A", m), ("B", n)):
        verdict = measurement.validity
        if verdict.status != "valid":
            codes = ", ".join(finding.code for finding in verdict.findings)
            yield f"{name} is {verdict.status} ({codes}): hwbench report shows why"


def _strained(side: Side) -> Iterator[str]:
    """Tell when the profiling run was so unlike the timed run that scaling one to the other means little."""
    if abs(side.profiling_overhead) > _UNLIKE:
        yield (
            f"{side.name}'s layer times come from a run that took {1 + side.profiling_overhead:.2g} times as long as "
            "the timed one: do not rely on its rows; profile again on a quiet machine (hwbench doctor)"
        )


def _device(result: ProfileResult) -> str:
    return f"{result.device.title} (fingerprint {result.device.fingerprint})"

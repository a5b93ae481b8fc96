"""What ``hwbench compress`` has done: tables for the terminal, and a page that shows every layer before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table

from hwbench.records.base import Missing
from hwbench.records.compression import Applied, CompressionResult, Judged, LayerFacts
from hwbench.records.verification import Certificate
from hwbench.report.html import asset, template
from hwbench.report.text import plain
from hwbench.report.verification import agreement_text, certificate_text, score_text
from hwbench.report.words import DASH
from hwbench.units import format_bytes

_BAR = 16
_MOST_LAYERS = 40
_MOST_REASONS = 4
_MOST_NOTES = 3


def render_compression(found: CompressionResult, folder: Path) -> RenderableType:
    """Return what a person wants to see of ``found``, which lies in ``folder``."""
    return Group(
        plain(f"{found.model.name}: compressed into {folder / found.compressed.files[0]}", "bold"),
        *(plain(f"warning: {warning}", "yellow") for warning in found.warnings),
        *(line for applied in found.compressed.applied for line in _step(applied)),
        _before_after(found),
        *_layers(found),
        *_certificates(found.verification),
    )


def summary_rows(found: CompressionResult) -> list[tuple[str, str, str, str]]:
    """Return what is compared before and after: name, before, after, after over before."""
    one, two = found.compressed.before, found.compressed.after
    rows = [
        _row("parameters", one.parameters, two.parameters),
        _row("of them not zero", one.nonzero_parameters, two.nonzero_parameters),
        ("sparsity", f"{one.zeros:.1%}", f"{two.zeros:.1%}", ""),
        _row("multiply-adds a sample", one.macs, two.macs),
        _row("layers", one.layers, two.layers),
        _bytes("weights in the file", one.weight_bytes, two.weight_bytes),
        _bytes("as they could be stored", one.packed_bytes, two.packed_bytes),
    ]
    return [*rows, *_accuracy(found.verification)]


Row = tuple[LayerFacts | None, tuple[LayerFacts, ...]]


def layer_rows(found: CompressionResult) -> list[Row]:
    """Return every layer with weights, before and after: none where it is gone, several where it was factorised."""
    after = {layer.layer: layer for layer in found.compressed.layers_after if layer.weight_shape}
    rows: list[Row] = []
    for layer in found.compressed.layers_before:
        if layer.weight_shape:
            whole = after.pop(layer.layer, None)
            names = [name for name in after if name.startswith(f"{layer.layer}.")] if whole is None else []
            rows.append((layer, (whole,) if whole is not None else tuple(after.pop(name) for name in names)))
    return rows + [(None, (layer,)) for layer in after.values()]


def _row(name: str, one: int, two: int) -> tuple[str, str, str, str]:
    return name, f"{one:,}", f"{two:,}", f"{two / one:.3f}" if one else DASH


def _bytes(name: str, one: int, two: int) -> tuple[str, str, str, str]:
    return name, format_bytes(one), format_bytes(two), f"{two / one:.3f}" if one else DASH


def _accuracy(judged: Judged | Missing) -> Iterator[tuple[str, str, str, str]]:
    if isinstance(judged, Missing):
        return
    found = judged.found
    if len(found.rows) < 2:  # it has another task than the original
        yield from ((f"{score.name} (N {score.n})", DASH, score_text(score), "") for score in found.rows[0].scores)
        return
    one, two = found.rows[0], found.rows[1]
    for before, after in zip(one.scores, two.scores, strict=False):
        yield f"{before.name} (N {before.n})", score_text(before), score_text(after), ""
    if not isinstance(two.agreement, Missing):
        yield "other decisions", "", agreement_text(two.agreement), ""


def _before_after(found: CompressionResult) -> Table:
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for title in ("", "before", "after", "after / before"):
        grid.add_column(title, overflow="fold", justify="left" if not title else "right")
    for row in summary_rows(found):
        grid.add_row(*(plain(cell) for cell in row))
    return grid


def _step(applied: Applied) -> Iterator[RenderableType]:
    kinds = Counter(change.kind for change in applied.changes)
    what = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "nothing changed"
    told = applied.figures if len(applied.notes) <= _MOST_NOTES else {}  # the page has all of them
    figures = "; ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in told.items())
    yield plain(f"{applied.step.method}: {what}{f'; {figures}' if figures else ''}")
    yield from (plain(f"  {note}", "dim") for note in applied.notes)
    reasons = Counter(str(each.reason) for each in applied.left_alone)
    for reason, count in reasons.most_common(_MOST_REASONS):
        yield plain(f"  left alone, {count} layer{'s' if count > 1 else ''}: {reason}", "dim")
    if len(reasons) > _MOST_REASONS:
        yield plain(f"  and {len(reasons) - _MOST_REASONS} more reasons in compression.json", "dim")


def _layers(found: CompressionResult) -> Iterator[RenderableType]:
    """Draw each layer that has changed: how many of its parameters are left and not zero."""
    changed = [(one, parts) for one, parts in layer_rows(found) if _differs(one, parts)]
    if not changed:
        return
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for title, side in (("layer", "left"), ("weights before", "right"), ("after", "right"), ("left of it", "left")):
        grid.add_column(title, overflow="fold", justify="left" if side == "left" else "right")
    for one, parts in changed[:_MOST_LAYERS]:
        grid.add_row(*(plain(cell) for cell in _cells(one, parts)))
    yield grid
    if len(changed) > _MOST_LAYERS:
        yield plain(f"and {len(changed) - _MOST_LAYERS} more layers: compression.html shows all", "dim")


def _differs(one: LayerFacts | None, parts: tuple[LayerFacts, ...]) -> bool:
    if one is None or len(parts) != 1:
        return True
    return (one.weight_shape, one.nonzero_parameters) != (parts[0].weight_shape, parts[0].nonzero_parameters)


def _cells(one: LayerFacts | None, parts: tuple[LayerFacts, ...]) -> tuple[str, str, str, str]:
    name = (one or parts[0]).layer
    before = DASH if one is None else _shape(one)
    after = " + ".join(_shape(part) for part in parts) or "gone"
    if one is None or not one.parameters:
        return name, before, after, ""
    share = sum(part.nonzero_parameters for part in parts) / one.parameters
    filled = round(min(share, 1.0) * _BAR)
    return name, before, after, f"{'█' * filled}{'·' * (_BAR - filled)} {share:.0%}"


def _shape(layer: LayerFacts) -> str:
    return "x".join(map(str, layer.weight_shape))


def _certificates(judged: Judged | Missing) -> Iterator[RenderableType]:
    if isinstance(judged, Missing):
        return
    found = judged.found
    for row in found.rows[1:]:
        if isinstance(row.certificate, Certificate):
            yield plain(certificate_text(row.certificate), "bold")
        elif found.request.max_drop is not None:
            yield plain(f"no certificate: {row.certificate.why}", "dim")


def render_compression_page(found: CompressionResult) -> str:
    """Return one HTML file that needs no network: what was done, before and after, and every layer as a bar."""
    widest = max((layer.parameters for layer in found.compressed.layers_before), default=1) or 1
    return template("compression.html.j2").render(
        found=found,
        rows=summary_rows(found),
        layers=[_bars(one, parts, widest) for one, parts in layer_rows(found)],
        certificates=[str(text) for text in _certificates(found.verification)],
        removed=_removed(found),
        style=Markup(asset("templates/style.css")),
    )


def _bars(one: LayerFacts | None, parts: tuple[LayerFacts, ...], widest: int) -> dict[str, object]:
    """Return a layer's row: widths in percent of the widest layer's square root, so that small ones can be seen."""

    def width(count: int) -> float:
        return float(round(min(100.0, 100 * (count / widest) ** 0.5), 2))

    name, before, after, _ = _cells(one, parts)
    left = sum(part.nonzero_parameters for part in parts)
    return {
        "name": name,
        "op": (one or parts[0]).op,
        "before": before,
        "after": after,
        "was": width(0 if one is None else one.parameters),
        "is": width(sum(part.parameters for part in parts)),
        "full": width(left),
        "share": "" if one is None else f"{left / max(1, one.parameters):.1%}",
    }


def _removed(found: CompressionResult) -> list[tuple[str, str, str, str]]:
    """Return each change in words: method, layer, what, and the indices that are gone."""
    rows = []
    for applied in found.compressed.applied:
        for change in applied.changes:
            gone = "; ".join(f"{where}: {_ranges(indices)}" for where, indices in change.removed.items())
            rows.append((applied.step.method, change.layer, change.what, gone))
    return rows


def _ranges(indices: tuple[int, ...]) -> str:
    """Write ``(0, 1, 2, 7)`` as ``0-2, 7``."""
    parts: list[list[int]] = []
    for index in sorted(indices):
        if parts and index == parts[-1][-1] + 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)

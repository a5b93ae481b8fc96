"""What ``hwbench build`` has made, in the terminal: a line a bundle, and what stayed in floating point."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table

from hwbench.records.base import Missing
from hwbench.records.build import BuildResult, Bundled, CalibrationFacts
from hwbench.records.device import NAMES_THERE
from hwbench.records.verification import Certificate, Score, Verified
from hwbench.report.placement import render_unmet
from hwbench.report.text import plain
from hwbench.report.verification import agreement_text, score_text
from hwbench.report.words import DASH
from hwbench.units import format_bytes, format_seconds

_MOST_REASONS = 3


def render_build(found: BuildResult, folder: Path) -> RenderableType:
    """Return what a person wants to see of ``found``, whose bundles lie in ``folder``."""
    parts: list[RenderableType] = [
        plain(f"{found.model.name}: {len(found.bundles)} bundles in {folder}", "bold"),
        *(plain(f"warning: {warning}", "yellow") for warning in found.warnings),
        *_calibration(found.calibration),
        _table(found),
        *_uncertified(found),
        *_left(found),
        *_unattached(found),
        *(
            [render_unmet(unmet)]
            if (unmet := [(item.path, each) for item in found.bundles for each in item.unmet])
            else []
        ),
        *(
            plain(f"{' '.join(filter(None, (item.engine, item.precision)))}: not built: {item.reason}")
            for item in found.not_built
        ),
        *_next(found, folder),
    ]
    return Group(*parts)


def _calibration(facts: CalibrationFacts | Missing) -> Iterator[RenderableType]:
    if isinstance(facts, Missing):
        return
    data = facts.data
    repairs = f"; {'; '.join(facts.repairs)}" if facts.repairs else ""
    took = format_seconds(facts.took_s)
    yield plain(
        f"calibrated on {data.samples} samples of {data.source}, {facts.settings.estimator}, in {took}{repairs}"
    )
    yield from (plain(f"warning: {warning}", "yellow") for warning in facts.warnings)


def _table(found: BuildResult) -> Table:
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for title in ("bundle", "size", "built", "latency", "score", "certificate"):
        grid.add_column(title, overflow="fold", justify="right" if title in {"size", "built", "latency"} else "left")
    if isinstance(found.reference, Verified):
        grid.add_row(
            plain(f"original: {found.reference.label}"), DASH, DASH, DASH, plain(_score(found.reference)), DASH
        )
    for item in found.bundles:
        median = item.median_s
        grid.add_row(
            plain(item.path),
            format_bytes(item.engine.size_bytes),
            format_seconds(item.engine.lower_s),
            DASH if isinstance(median, Missing) else format_seconds(median),
            plain(_of_graph(item) if isinstance(item.engine.built, Missing) else _score(item.verified)),
            plain(_word(item.verified)),
        )
    return grid


def _score(row: Verified | Missing) -> str:
    if isinstance(row, Missing):
        return DASH if row.code in {"not_asked", "not_attached"} else f"failed: {row}"
    score: Score | None = next(iter(row.scores), None)
    if score is not None:
        return f"{score.name} {score_text(score)}"
    agreement = agreement_text(row.agreement)
    return agreement if isinstance(row.agreement, Missing) else f"other decisions {agreement}"


def _word(row: Verified | Missing) -> str:
    if isinstance(row, Missing):
        return DASH
    return row.certificate.word if isinstance(row.certificate, Certificate) else DASH


def _uncertified(found: BuildResult) -> Iterator[RenderableType]:
    """Say once why there is no certificate, where bundles were judged."""
    rows = [item.verified for item in found.bundles if isinstance(item.verified, Verified)]
    reasons = dict.fromkeys(row.certificate.why for row in rows if isinstance(row.certificate, Missing))
    yield from (plain(f"no certificate: {why}", "dim") for why in reasons)


def _left(found: BuildResult) -> Iterator[RenderableType]:
    """Say of each bundle which layers are not as was asked for, by reason."""
    for item in found.bundles:
        reasons = Counter((layer.asked, layer.got, layer.why or "") for layer in item.left_float)
        if not reasons:
            continue
        shown = "; ".join(
            f"{count} of {asked} are {got}{f' ({why})' if why else ''}"
            for (asked, got, why), count in reasons.most_common(_MOST_REASONS)
        )
        more = f"; and {len(reasons) - _MOST_REASONS} more reasons" if len(reasons) > _MOST_REASONS else ""
        yield plain(f"{item.label}: {_quantised(item)}; {shown}{more}", "dim")


def _unattached(found: BuildResult) -> Iterator[RenderableType]:
    """Say of bundles that were not run what is known of their numbers, and whose those are."""
    away = [item for item in found.bundles if isinstance(item.engine.built, Missing)]
    for item in away:
        checked = item.engine.graph_checked
        why = checked if isinstance(checked, Missing) else checked.max_relative
        if isinstance(why, Missing):
            yield plain(f"{item.label}: {why.why}", "yellow")
    if away:
        yield plain(f"{found.device.title} is not attached: nothing was loaded, judged on data or timed", "yellow")
    if any(not isinstance(item.engine.graph_checked, Missing) for item in away):
        yield plain(
            "graph: what the engine was built from, run here on the example inputs; its largest difference from the "
            "original, of the largest output. It says nothing of the engine's own rounding.",
            "dim",
        )


def _of_graph(item: Bundled) -> str:
    checked = item.engine.graph_checked
    if isinstance(checked, Missing):
        return "graph not run"
    if isinstance(checked.max_relative, Missing):
        return "graph: NaN"
    return f"graph off by {checked.max_relative:.2%}"


def _quantised(item: Bundled) -> str:
    layers = item.engine.lowered.layers
    return f"{sum(layer.got == layer.asked for layer in layers)} of {len(layers)} layers as asked"


def _next(found: BuildResult, folder: Path) -> Iterator[RenderableType]:
    if not found.bundles:
        return
    first = shlex.quote(str(folder / found.bundles[0].path))
    if found.request.one_file:
        yield plain(f"check one where it is deployed: unzip -d here {first} && python here/run_example.py", "dim")
    else:
        yield plain(f"check one where it is deployed: python {first}/run_example.py", "dim")
    if all(isinstance(item.engine.built, Missing) for item in found.bundles):
        there = NAMES_THERE.get(found.device.kind, found.device.name)
        yield plain(f"measure it there: hwbench measure {first} --device {there}", "dim")
    elif len(found.bundles) > 1:
        second = shlex.quote(str(folder / found.bundles[1].path))
        where = "" if found.device.kind == "cpu" else f" --device {found.device.name}"
        yield plain(f"which is faster, measured in turn: hwbench compare {first} {second}{where}", "dim")

"""A verification in the terminal: scores with intervals, agreement, error, certificate; then the reasons."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hwbench.records.base import Missing
from hwbench.records.verification import (
    Agreement,
    Certificate,
    LayerError,
    OutputError,
    Score,
    Verification,
    Verified,
)
from hwbench.report.placement import render_unmet
from hwbench.report.text import plain
from hwbench.report.words import DASH

_STYLE = {"CERTIFIED": "green", "FAILED": "bold red", "NOT ENOUGH DATA": "yellow"}
_SHARES = ("accuracy", "top-5", "macro F1", "token accuracy")
_WORST_LAYERS = 10
_EXACT = {"no_error": "exact", "first_error": "all", "no_signal": DASH}
_LEGEND = (
    "Intervals of scores: 95 %, how they would come out on other data of the same kind. Other decisions: samples on "
    "which the largest output is another one than the reference's, with the exact 95 % interval. SQNR: signal over "
    "error power of the worst output, in dB."
)


def render_verification(found: Verification) -> RenderableType:
    """Return what a person wants to see of ``found``."""
    data = found.data
    labels = "with labels" if data.labels else "without labels"
    parts: list[RenderableType] = [
        plain(f"{found.model.name}: {data.samples} samples of {data.source} {labels}, as {found.task}", "bold"),
        plain(_reference(found), "dim"),
        *(plain(f"warning: {warning}", "yellow") for warning in found.warnings),
        _table(found),
        *_certificates(found),
        *_layers(found),
        *([render_unmet(unmet)] if (unmet := [(row.label, each) for row in found.rows for each in row.unmet]) else []),
        *_reasons(found),
        plain(_LEGEND, "dim"),
    ]
    return Group(*parts)


def _reference(found: Verification) -> str:
    if isinstance(found.reference, Missing):
        return f"reference: none: {found.reference}"
    return f"reference: {found.reference}, {found.model.name} as it came in"


def _table(found: Verification) -> Table:
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    names = [score.name for score in found.rows[0].scores]
    for title in ("engine", *names, "other decisions", "SQNR", "certificate"):
        grid.add_column(title, overflow="fold")
    for row in found.rows:
        scores = [plain(score_text(score)) for score in row.scores]
        grid.add_row(
            plain(row.label + ("" if row.finite else " (NaN!)")),
            *scores,
            *(plain("?") for _ in range(len(names) - len(scores))),
            plain(agreement_text(row.agreement)),
            plain(_sqnr(row)),
            _word(row),
        )
    return grid


def score_text(score: Score) -> str:
    """Return a score with its interval; shares in percent."""
    if score.name in _SHARES:
        return f"{score.value:.2%} ({score.low:.2%} to {score.high:.2%})"
    return f"{score.value:.4g} ({score.low:.4g} to {score.high:.4g})"


def agreement_text(found: Agreement | Missing) -> str:
    """Return on how many samples another decision was made."""
    if isinstance(found, Missing):
        return "reference" if found.code == "is_reference" else DASH
    return f"{found.different} of {found.n} ({found.low:.2%} to {found.high:.2%})"


def _sqnr(row: Verified) -> str:
    if isinstance(row.outputs, Missing):
        return DASH
    told = [output.sqnr_db for output in row.outputs if not isinstance(output.sqnr_db, Missing)]
    return f"{min(told):.1f}" if told else _exact(row.outputs)


def _exact(outputs: tuple[OutputError, ...]) -> str:
    return "exact" if all(output.max_absolute == 0 for output in outputs) else DASH


def _word(row: Verified) -> Text:
    certificate = row.certificate
    return plain(DASH) if isinstance(certificate, Missing) else plain(certificate.word, _STYLE[certificate.word])


def _certificates(found: Verification) -> Iterator[Text]:
    for row in found.rows:
        if isinstance(row.certificate, Certificate):
            yield plain(f"{row.label}: {certificate_text(row.certificate)}", _STYLE[row.certificate.word])


def certificate_text(found: Certificate) -> str:
    """Return the certificate in words."""
    share = found.metric in _SHARES

    def shown(value: float) -> str:
        return f"{100 * value:+.2f} pp" if share else f"{value:+.4g}"

    counts = "" if isinstance(found.worse, Missing) else f", {found.worse} lost and {found.better} won"
    text = (
        f"{found.word}: {found.metric} falls by {shown(found.drop)} ({shown(found.low)} to {shown(found.high)}; "
        f"n = {found.n}{counts}), allowed: {shown(found.max_drop)}"
    )
    if found.word != "NOT ENOUGH DATA":
        return text
    if isinstance(found.enough, Missing):
        return f"{text}; {found.enough.why}"
    return f"{text}; about {found.enough} samples would settle it, if things stay as they look"


def _layers(found: Verification) -> Iterator[RenderableType]:
    for row in found.rows:
        if isinstance(row.layers, Missing):
            continue
        first = row.layers.first_diverging
        told = first.why if isinstance(first, Missing) else f"the first is {first}"
        yield plain(f"{row.label}: layers with an SQNR below {row.layers.below_db:g} dB: {told}")
        grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        for title in ("layer", "op", "SQNR dB", "lost here dB", "cosine", "largest error"):
            grid.add_column(title, overflow="fold")
        for error in sorted(row.layers.errors, key=_quality)[:_WORST_LAYERS]:
            figures = (error.sqnr_db, error.added_db, error.cosine, error.max_absolute)
            shown = [
                _EXACT.get(value.code, value.why) if isinstance(value, Missing) else f"{value:.4g}" for value in figures
            ]
            grid.add_row(plain(error.layer), plain(error.op), *(plain(text) for text in shown))
        yield grid
        count = min(_WORST_LAYERS, len(row.layers.errors))
        yield plain(
            f"the {count} worst of {len(row.layers.errors)} layers, on {row.layers.samples} samples; every layer is an "
            "output there, so that the runtime fuses less than it does otherwise",
            "dim",
        )


def _quality(error: LayerError) -> float:
    if isinstance(error.sqnr_db, Missing):
        return -1e9 if error.sqnr_db.code == "not_finite" else 1e9
    return error.sqnr_db


def _reasons(found: Verification) -> Iterator[Text]:
    shown: set[str] = set()
    for row in found.rows:
        for missing in (row.agreement, row.outputs, row.certificate, row.layers):
            if isinstance(missing, Missing) and missing.code not in {"is_reference", "not_asked", *shown}:
                shown.add(missing.code)
                yield plain(f"{row.label}: {missing}", "dim")
    for item in found.not_verified:
        name = f"{item.engine} {item.precision}".strip()
        yield plain(f"{name}: {'FAILED' if item.failed else 'not verified'}: {item.reason}", "dim")

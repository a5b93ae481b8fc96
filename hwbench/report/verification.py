"""A verification in the terminal: scores with intervals, agreement, error, certificate; then the reasons."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hwbench.records.base import Missing
from hwbench.records.verification import Agreement, Certificate, OutputError, Score, Verification, Verified
from hwbench.report.text import plain
from hwbench.report.words import DASH

_STYLE = {"CERTIFIED": "green", "FAILED": "bold red", "NOT ENOUGH DATA": "yellow"}
_SHARES = ("accuracy", "top-5", "macro F1", "token accuracy")
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
        plain(f"reference: {found.reference}, the model as it came in", "dim"),
        *(plain(f"warning: {warning}", "yellow") for warning in found.warnings),
        _table(found),
        *_certificates(found),
        *_reasons(found),
        plain(_LEGEND, "dim"),
    ]
    return Group(*parts)


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


def _reasons(found: Verification) -> Iterator[Text]:
    shown: set[str] = set()
    for row in found.rows:
        for missing in (row.agreement, row.outputs, row.certificate):
            if isinstance(missing, Missing) and missing.code not in {"is_reference", "not_asked", *shown}:
                shown.add(missing.code)
                yield plain(f"{row.label}: {missing}", "dim")
    for item in found.not_verified:
        name = f"{item.engine} {item.precision}".strip()
        yield plain(f"{name}: {'FAILED' if item.failed else 'not verified'}: {item.reason}", "dim")

"""A search as one HTML page that needs no network, built as :mod:`hwbench.report.html` says."""

from __future__ import annotations

from hwbench.records.base import Missing
from hwbench.records.search import SearchResult
from hwbench.report import search_figures as figures
from hwbench.report.html import fenced_page
from hwbench.report.page import Book, Chart
from hwbench.report.search import amount, caveats, counted, failures, headline, quantity, settings, shown_metrics
from hwbench.units import format_seconds, format_si


def render_search_page(found: SearchResult) -> str:
    """Return the page."""
    book = Book()
    charts = [
        *(
            book.add(figure, f"{one.metric} and {other.metric}", "Bars are 95 % intervals of single measurements.")
            for one, other, figure in figures.pairs(found)
        ),
        *(book.add(figures.history(found, one), f"{one.metric} by trial") for one in found.request.objectives),
        *_decided(found, book),
    ]
    if any(trial.state == "complete" for trial in found.trials):
        caption = "Red: points of the Pareto set. A parameter that a point does not have is passed over."
        charts.append(book.add(figures.parallel(found), "All complete points", caption))
    return fenced_page(
        "search.html.j2",
        found,
        book,
        found=found,
        headline=headline(found),
        counted=counted(found),
        caveats=caveats(found),
        metrics=shown_metrics(found),
        rows=_rows(found),
        candidates=_candidates(found),
        failures=failures(found),
        charts=charts,
    )


def _decided(found: SearchResult, book: Book) -> list[Chart]:
    if not found.importances:
        return []
    method = found.importances[0].method
    return [book.add(figures.importance(found.importances), "What each parameter decides", f"By {method}.")]


def _rows(found: SearchResult) -> list[tuple[str, ...]]:
    """Return a row a trial: number, state, quantities, settings, seconds, what else there is to say."""
    rows: list[tuple[str, ...]] = []
    for trial in found.trials:
        by_name = {each.metric: each for each in trial.quantities}
        state = "Pareto" if trial.number in found.pareto else figures.state_of(trial)
        said = "" if trial.reason is None else str(trial.reason)
        said = f"same point as trial {trial.same_as}" if trial.same_as is not None else said
        cells = [quantity(by_name.get(name)) for name in shown_metrics(found)]
        rows.append((str(trial.number), state, *cells, settings(trial), format_seconds(trial.took_s), said))
    return rows


def _candidates(found: SearchResult) -> list[tuple[str, ...]]:
    """Return a row a candidate: architecture, score, latency, parameters, multiply-adds, whether it was kept."""
    rows: list[tuple[str, ...]] = []
    for one in found.candidates:
        name = ", ".join(f"{key}={value}" for key, value in one.params.items())
        score = str(one.score) if isinstance(one.score, Missing) else f"{one.score:.4g}"
        median = str(one.median_s) if isinstance(one.median_s, Missing) else amount("latency", one.median_s)
        size = "" if one.parameters is None else format_si(one.parameters, "")
        macs = "" if one.macs is None else format_si(one.macs, "")
        rows.append((name, score, median, size, macs, "yes" if one.kept else "no"))
    return rows

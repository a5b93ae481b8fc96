"""One result, or several, as one HTML file that needs no network: not for a font, not for a script.

Everything is inside: the charts' data, plotly, and the results themselves, so that :func:`extract_results` turns a
page back into records. Three fences keep what a model file, a runtime or a machine wrote from becoming page: Jinja2
escapes every text, JSON has no ``<``, ``>`` or ``&`` left in it, and a content security policy lets only the
two scripts run whose hashes it names, and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import jinja2
import msgspec
from markupsafe import Markup

from hwbench.errors import StorageError
from hwbench.files import parse_record
from hwbench.records.measurement import PROFILE_RESULT_SCHEMA, ProfileResult
from hwbench.report.comparison import compare
from hwbench.report.energy_page import energy_view
from hwbench.report.energy_traces import Traces
from hwbench.report.page import Book, section

_DATA_OPEN = '<script type="application/json" id="hwbench-data">'
_CLOSE = "</script>"
_DAMAGED = "the page is damaged or was not written by hwbench"


def render_page(
    results: Sequence[ProfileResult], *, baseline: ProfileResult | None = None, traces: Traces | None = None
) -> str:
    """Return the page.

    Args:
        results: what to show, at least one.
        baseline: the result that the comparison's ratios refer to; shown first, and added when it is not among
            ``results``. Without it the first result is the base.
        traces: the recordings behind the energy, from :func:`hwbench.report.energy_traces.find_traces`; what is not
            there is said not to have been looked for.

    Raises:
        ValueError: there is nothing to show.
    """
    shown = list(results)
    if baseline is not None:
        shown = [baseline, *(result for result in shown if result != baseline)]
    if not shown:
        msg = "a page needs at least one result"
        raise ValueError(msg)
    book = Book()
    comparison = compare(shown, book) if len(shown) > 1 else None
    together = energy_view(shown, "energy", book, {}, drawn=False) if len(shown) > 1 else None
    sections, energy = [], []
    for index, result in enumerate(shown, 1):
        sections.append(section(result, f"r{index}", book))
        energy.append(energy_view([result], f"r{index}-energy", book, traces or {}))
    return fenced_page(
        "page.html.j2",
        shown,
        book,
        sections=sections,
        comparison=comparison,
        together=together,
        energy=energy,
    )


def fenced_page(name: str, data: object, book: Book, **parts: object) -> str:
    """Return a page of the template ``name``, with the three fences around everything that is put into it.

    Args:
        name: of a file in ``templates/``.
        data: what the page is of, put into it as JSON.
        book: its charts.
        parts: what else the template shows.
    """
    plotly, script = asset("assets/plotly-basic.min.js"), asset("templates/page.js")
    return template(name).render(
        **parts,
        style=Markup(asset("templates/style.css")),
        plotly=Markup(plotly),
        script=Markup(script),
        policy=policy(plotly, script),
        figures=json_text(msgspec.json.encode(book.figures)),
        data=json_text(msgspec.json.encode(data)),
    )


def extract_results(html: str) -> list[ProfileResult]:
    """Return the results inside a page that :func:`render_page` made, exactly as they went in.

    Raises:
        StorageError: there are none, or they are damaged or of a newer format.
    """
    _, found, rest = html.partition(_DATA_OPEN)
    text, closed, _ = rest.partition(_CLOSE)
    if not found or not closed:
        msg = "no results in this page"
        raise StorageError(msg, hint=_DAMAGED)
    try:
        items = msgspec.json.decode(text.encode(), type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        msg = f"the results in this page are not JSON: {error}"
        raise StorageError(msg, hint=_DAMAGED) from error
    return [
        parse_record(bytes(item), ProfileResult, schema=PROFILE_RESULT_SCHEMA, what=f"result {number} in this page")
        for number, item in enumerate(items, 1)
    ]


def json_text(data: bytes) -> Markup:
    """Return JSON that cannot end its script element: these characters occur only inside JSON strings."""
    text = data.decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def policy(*scripts: str) -> str:
    """Return the content security policy of a page that runs these scripts and fetches nothing."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src {hashes}"


@cache
def asset(name: str) -> str:
    """Return the text of a file of this package."""
    return files("hwbench.report").joinpath(name).read_text(encoding="utf-8")


@cache
def template(name: str) -> jinja2.Template:
    """Return a template of this package; it escapes every text, and refuses what it is not given."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hwbench.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)

"""A comparison as GitHub-flavoured Markdown, for a job summary or a comment on a pull request.

What comes from outside must not become markup: every character that Markdown or HTML gives a meaning is escaped, and a
line break becomes a space.
"""

from __future__ import annotations

import html
import re

from hwbench.records.comparison import Comparison, Pair
from hwbench.report import verdict_words as words

_MARKUP = re.compile(r"([\\`*_{}\[\]()#+!|~>@-])")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


def to_markdown(comparison: Comparison) -> str:
    """Return the comparison as Markdown."""
    parts = ["## hwbench compare", ""]
    for pair in comparison.pairs:
        parts += _pair(pair)
    parts += [f"{escape(words.how(comparison))}; {escape(comparison.device.title)}", ""]
    parts += [f"- note: {escape(warning)}" for warning in comparison.warnings]
    return "\n".join(parts).rstrip() + "\n"


def escape(text: str) -> str:
    """Return ``text`` so that Markdown shows it as it is."""
    text = _CONTROL.sub(" ", text)
    escaped = _MARKUP.sub(r"\\\1", html.escape(text, quote=False).replace("&gt;", ">"))
    return escaped.replace("://", ":&#8203;//")  # no links of their own


def _pair(pair: Pair) -> list[str]:
    lines = [f"### {escape(words.headline(pair))}", ""]
    if pair.verdicts:
        lines += [_row(words.HEADINGS), "|---|--:|--:|--:|--:|---|"]
        lines += [_row(words.cells(verdict)) for verdict in pair.verdicts]
        lines += ["", escape(words.confidence(pair)), ""]
    lines += [f"- **{words.GOALS[item.status]}**: {escape(words.goal(item))}" for item in pair.goals]
    remarks = [f"A: {pair.a.given}", f"B: {pair.b.given}", *words.remarks(pair)]
    lines += ["", "<details><summary>what this rests on</summary>", ""]
    lines += [f"- {escape(line)}" for line in remarks]
    return [*lines, "", "</details>", ""]


def _row(values: tuple[str, ...]) -> str:
    return f"| {' | '.join(escape(value) for value in values)} |"

"""A comparison as JUnit's XML: a test case a goal and a metric, a suite a pair.

A missed goal is a failure, one that cannot be told is skipped with the reason (with ``strict`` a failure too). A metric
without a goal is never a failure: its verdict is in the output of its case.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from hwbench.records.comparison import Comparison, GoalOutcome, Pair, Verdict
from hwbench.report import verdict_words as words

# What XML 1.0 cannot hold, not even escaped.
_IMPOSSIBLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(comparison: Comparison, *, strict: bool) -> bytes:
    """Return the comparison as XML in UTF-8."""
    root = ET.Element("testsuites", name="hwbench compare")
    for pair in comparison.pairs:
        suite = ET.SubElement(root, "testsuite", name=_clean(pair.label), timestamp=comparison.created_at)
        for outcome in pair.goals:
            _goal(suite, pair, outcome, strict=strict)
        for verdict in pair.verdicts:
            _metric(suite, pair, verdict)
        for name, reason in pair.absent.items():
            case = ET.SubElement(suite, "testcase", classname=_clean(pair.label), name=name)
            ET.SubElement(case, "skipped", message=_clean(str(reason)))
        for attribute, tag in (
            ("tests", "testcase"),
            ("failures", "testcase/failure"),
            ("skipped", "testcase/skipped"),
        ):
            suite.set(attribute, str(len(suite.findall(tag))))
        suite.set("errors", "0")
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _goal(suite: ET.Element, pair: Pair, outcome: GoalOutcome, *, strict: bool) -> None:
    case = ET.SubElement(suite, "testcase", classname=_clean(pair.label), name=_clean(f"--fail-if {outcome.goal.text}"))
    if outcome.status == "missed" or (strict and outcome.status == "unknown"):
        ET.SubElement(case, "failure", message=_clean(outcome.why), type=outcome.status)
    elif outcome.status == "unknown":
        ET.SubElement(case, "skipped", message=_clean(outcome.why))


def _metric(suite: ET.Element, pair: Pair, verdict: Verdict) -> None:
    case = ET.SubElement(suite, "testcase", classname=_clean(pair.label), name=verdict.metric)
    said = ", ".join(f"{key} {value}" for key, value in zip(words.HEADINGS, words.cells(verdict), strict=True))
    if verdict.why is not None:
        said += f"\n{verdict.why}"
    ET.SubElement(case, "system-out").text = _clean(said)


def _clean(text: str) -> str:
    return _IMPOSSIBLE.sub("\N{REPLACEMENT CHARACTER}", text)

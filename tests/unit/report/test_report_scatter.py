"""A scatter as SVG: points where they belong, ticks around them, labels apart, and nothing that could be markup."""

import itertools
import re
import xml.etree.ElementTree as ET

import pytest

from hwbench.report.scatter import Point, scatter, ticks


def point(label, x, y, kind="planned", front=False):
    return Point(label=label, x=x, y=y, kind=kind, front=front)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (2e-4, 9e-4), (-0.3, 12.0), (5.0, 5.0), (0.0, 0.0)])
def test_ticks_are_even_and_go_around(low, high):
    found = ticks(low, high)
    steps = {round((b - a) / (found[1] - found[0]), 9) for a, b in itertools.pairwise(found)}
    assert steps == {1.0}
    assert 3 <= len(found) <= 8
    assert found[0] <= low <= high <= found[-1] + 1e-12


def test_points_lie_in_order_and_labels_apart():
    svg = scatter([point("a", 1.0, 0.0), point("b", 1.01, 0.0), point("<c>", 3.0, 0.5, "chosen", front=True)], "x", "y")
    tree = ET.fromstring(svg)
    circles = [(float(c.get("cx")), float(c.get("cy")), c[0].text) for c in tree.iter("circle")]
    assert [text.partition(":")[0] for *_, text in circles] == ["a", "b", "<c>"]
    assert circles[0][0] < circles[1][0] < circles[2][0]
    assert circles[2][1] < circles[0][1] == circles[1][1]
    texts = {t.text: float(t.get("y")) for t in tree.iter("text")}
    assert abs(texts["a"] - texts["b"]) >= 12
    assert "<c>" not in re.sub(r"&lt;c&gt;", "", str(svg))


def test_nothing_is_no_chart():
    assert scatter([], "x", "y") == ""

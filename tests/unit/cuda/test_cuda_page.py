"""The table on docs/cuda.md says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from hwbench.cuda.results import RESULTS

PAGE = (Path(__file__).parents[3] / "docs" / "cuda.md").read_text(encoding="utf-8")


def test_every_result_is_on_the_page():
    rows = dict(re.findall(r"^\| (\d+) \| (.*) \|$", PAGE, re.MULTILINE))
    expected = {str(number): f"{why} | {cure or ''}".strip() for number, (_, why, cure) in sorted(RESULTS.items())}
    assert {number: row.strip() for number, row in rows.items()} == expected

from __future__ import annotations

import csv
import io

import pytest
from fixtures_results import make_measurement, make_result
from rich.console import Console

from hwbench.records.base import Missing
from hwbench.records.transfers import Transfers
from hwbench.report.delimited import to_csv
from hwbench.report.html import render_page
from hwbench.report.text import render_table

TIMED = Transfers(
    h2d_s=(3e-5, 2.5e-5, 9e-5),
    d2h_s=(1e-5, 1.5e-5, 1.2e-5),
    bytes_in=602_112,
    bytes_out=4000,
    pinned=True,
    method="CUDA events",
)
BROKEN = Missing(code="engine_failed", why="the driver is gone", cure="get it back")


def text_of(transfers=None):
    result = make_result(make_measurement(**({} if transfers is None else {"transfers": transfers})))
    console = Console(width=300, file=io.StringIO(), color_system=None)
    console.print(render_table(result))
    return console.file.getvalue(), result


def test_transfers_in_the_terminal():
    text, _ = text_of(TIMED)
    assert "none of the times above" in text
    assert "30.0 µs for 588 KiB in, 12.0 µs for 3.91 KiB out; medians of 3, page-locked memory (CUDA events)" in text


def test_an_engine_that_copies_nothing_says_nothing():
    assert "host and device" not in text_of()[0]


def test_why_they_are_missing():
    assert "the driver is gone; get it back" in text_of(BROKEN)[0]


def test_transfers_on_the_page():
    _, result = text_of(TIMED)
    assert "588 KiB in" in render_page([result])
    assert "Copies between host and device" not in render_page([text_of()[1]])


def test_transfers_in_a_spreadsheet():
    _, result = text_of(TIMED)
    (row,) = csv.DictReader(io.StringIO(to_csv(result)))
    assert float(row["transfers_h2d_median_s"]) == 3e-5
    assert float(row["transfers_d2h_median_s"]) == 1.2e-5
    assert (row["transfers_bytes_in"], row["transfers_bytes_out"], row["transfers_pinned"]) == (
        "602112",
        "4000",
        "True",
    )
    (row,) = csv.DictReader(io.StringIO(to_csv(text_of(BROKEN)[1])))
    assert row["transfers_bytes_in"] == ""
    assert "the driver is gone" in row["missing"]


@pytest.mark.parametrize(
    "wrong", [{"h2d_s": ()}, {"h2d_s": (1.0, 2.0)}, {"d2h_s": (-1.0,), "h2d_s": (1.0,)}, {"bytes_in": -1}]
)
def test_records_that_cannot_be(wrong):
    fields = {"h2d_s": (1.0,), "d2h_s": (1.0,), "bytes_in": 1, "bytes_out": 1, "pinned": True, "method": "m"}
    with pytest.raises(ValueError, match=r"needed|negative"):
        Transfers(**(fields | wrong))

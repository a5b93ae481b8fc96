from __future__ import annotations

import json
import re

import msgspec
import pytest
from rich.console import Console

from hwbench.records.base import Missing
from hwbench.records.crossover import CROSSOVER_SCHEMA, Cell, Contender, Crossover, LeftOut, Times
from hwbench.records.device import Environment
from hwbench.report.crossover import left_out, render_checks, render_crossover, sections
from hwbench.report.crossover_page import gains, render_crossover_page

EVIL = "<script>alert(1)</script>"


def cell(contender, us, sparsity=0.0, n=8):
    missing = Missing(code="wrong_result", why="off by 3")
    times = missing if us is None else Times(value_s=us * 1e-6, low_s=us * 0.9e-6, high_s=us * 1.1e-6)
    return Cell(m=64, k=128, n=n, sparsity=sparsity, contender=contender, time=times,
                read_bytes=1e6, bound_s=1e-6, bound_by=Missing(code="measured", why=""), error=0.5)  # fmt: skip


def table(*cells, **other):
    roles = {"vw16": "kernel", "control": "control"}
    names = dict.fromkeys(one.contender for one in cells)
    environment = Environment(
        hwbench="1", python="3", os="Linux", kernel="6", libc=Missing(code="none", why=""), packages=()
    )
    return Crossover(**{
        "schema_version": CROSSOVER_SCHEMA, "created_at": "2026-01-01", "basis": "measured", "device": "cuda:0",
        "title": EVIL, "compute_capability": "9.0", "driver": "CUDA 13.0", "kernels_sha256": "0" * 64,
        "environment": environment, "memory_bytes_per_s": 1e12, "memory_from": "made up",
        "contenders": tuple(Contender(name=n, role=roles.get(n, "dense"), values="fp16", summary=EVIL) for n in names),
        "cells": cells, "left_out": (), "control": 1.02, "protocol": ("one sentence",), **other,
    })  # fmt: skip


CELLS = (cell("dense-fp16", 10), cell("dense-int8", 4), cell("vw16", 5, 0.5), cell("vw16", 2, 0.9),
         cell("s24", None, 0.5))  # fmt: skip


def shown(made):
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(made)
    console.file.close()
    return console.export_text()


def test_the_fastest_is_first_and_what_failed_is_last_with_its_reason():
    ((title, rows),) = sections(table(*CELLS))
    assert title == "W 64 x 128, 16.4 kB in fp16"
    assert [row[2] for row in rows] == ["vw16", "dense-int8", "vw16", "dense-fp16", "s24"]
    assert rows[0][1:7] == ("90%", "vw16", "2.00 µs", "1.80 µs to 2.20 µs", "5.00x (4.55 to 5.56)", "50%")
    assert rows[-1][-1] == "off by 3"


def test_every_line_of_a_model_says_so():
    ((_, rows),) = sections(table(cell("dense-fp16", 10), cell("vw16", 5, 0.5), basis="model"))
    assert [row[-1] for row in rows] == ["model, not measured"] * 2
    text = shown(render_crossover(table(cell("dense-fp16", 10), basis="model")))
    assert "(model, not measured)" in text


def test_the_text_has_what_the_numbers_rest_on():
    text = shown(render_crossover(table(*CELLS, warnings=("no baselines",))))
    for words in ("one sentence", "differ by up to 1.020 times", "made up", "warning: no baselines", "CUDA 13.0"):
        assert words in text


def test_a_reason_is_told_once():
    why = Missing(code="old_gpu", why="too old")
    twice = LeftOut(contender="s24", m=None, k=None, n=None, sparsity=None, reason=why)
    where = LeftOut(contender="s24", m=64, k=128, n=8, sparsity=0.5, reason=why)
    told = left_out(table(*CELLS, left_out=(twice, twice, where)))
    assert told == ["left out: s24: too old"]


def shown_table(given):
    return " ".join(shown(render_crossover(given)).split())


def test_reasons_are_grouped_and_none_is_cut_without_a_word():
    def out(name, n, why="no memory"):
        return LeftOut(contender=name, m=64, k=64, n=n, sparsity=0.5, reason=Missing(code="not_placed", why=why))

    many = tuple(out("vw16", n) for n in range(1, 31))
    text = shown_table(table(cell("dense-fp16", 10), left_out=many))
    assert text.count("left out") == 1
    assert "left out: vw16 at 64x64, N = 1, 50% zeros; " in text
    assert "N = 3, 50% zeros and 27 more points: no memory" in text
    each = tuple(out("vw16", 1, f"reason {number}") for number in range(20))
    given = table(cell("dense-fp16", 10), left_out=each)
    assert "and 8 more left out" in shown_table(given)
    assert len(left_out(given)) == 20  # the page has them all


def test_gains_have_their_interval():
    made = cell("vw16", 5, 0.5)
    wide = msgspec.structs.replace(made, time=Times(value_s=5e-6, low_s=4e-6, high_s=8e-6))
    assert "2.00x (1.25 to 2.50)" in shown_table(table(cell("dense-fp16", 10), wide))


def test_the_picture_has_gains_and_level_lines():
    figure = gains(table(*CELLS), 64, 128, 8)
    lines = {line["name"]: line for line in figure["data"]}
    assert lines["vw16"]["x"] == [0.5, 0.9]
    assert lines["vw16"]["y"] == pytest.approx([2.0, 5.0])
    assert lines["vw16"]["error_y"]["array"][0] == pytest.approx(10 / 4.5 - 2)
    assert lines["dense-int8"]["x"] == [0.5, 0.9]
    assert lines["dense-int8"]["y"] == pytest.approx([2.5, 2.5])
    assert lines["s24"]["x"] == []


def test_the_page_is_whole_and_escapes_what_it_is_told():
    page = render_crossover_page(table(*CELLS))
    assert EVIL not in page
    data = re.search(r'id="hwbench-data">(.*?)</script>', page, re.DOTALL)[1]
    assert json.loads(data)["title"] == EVIL
    assert page.count('class="plot"') == 1
    assert "http" not in re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL).replace("http-equiv", "")


def test_the_compile_matrix_tells_what_is_broken():
    check = pytest.importorskip("hwbench.sparse.check", reason="the compile matrix")

    def checked(arch, registers, broken=()):
        return check.Checked(kernel="s24", arch=arch, tile_n=8, bias=False, act="none", registers=registers,
                             shared_bytes=1024, broken=broken)  # fmt: skip

    text = shown(render_checks([checked(80, 40), checked(80, 48), checked(90, 70, ("70 registers, 64 allowed",))]))
    lines = [line for line in text.splitlines() if "s24" in line]
    assert "48" in lines[0]
    assert "as the manifest says" in lines[0]
    assert "70 registers, 64 allowed" in lines[1]

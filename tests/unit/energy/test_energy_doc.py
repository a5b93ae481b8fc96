"""docs/energy.md against the code: its flags, its traps, its checks, and the known answers."""

import ast
import re
from pathlib import Path

import pytest

from hwbench.energy.flags import FLAGS
from hwbench.energy.selftest.checks import CHECKS
from hwbench.records.energy import EnergyRun

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/energy.md").read_text(encoding="utf-8")
TESTS = {
    name
    for path in ROOT.glob("tests/**/test_*.py")
    for name in re.findall(r"^ *def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
}


def table(heading):
    below = PAGE.partition(f"{heading}\n")[2]
    lines = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_flags_is_the_code():
    assert table("## Flags") == [[f"`{name}`", flag.when, flag.cure] for name, flag in FLAGS.items()]


def flag_words(path):
    """Yield the words that a module puts among flags: appended, added, or in a tuple or list of that name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        target = ""
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            target = called if called.endswith(("flags.append", "_flagged", "seen.append")) else ""
            target = target or ("flags" if any(k.arg == "flags" for k in node.keywords) else "")
        elif isinstance(node, ast.AugAssign | ast.Assign):
            targets = [node.target] if isinstance(node, ast.AugAssign) else node.targets
            target = "flags" if any(ast.unparse(one) == "flags" for one in targets) else ""
        if not target:
            continue
        parts = [node.value] if isinstance(node, ast.AugAssign | ast.Assign) else [*node.args]
        parts += [k.value for k in getattr(node, "keywords", []) if k.arg == "flags"]
        for part in parts:
            for inner in ast.walk(part):
                if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                    yield inner.value.partition(":")[0].strip()


SOURCES = [
    *ROOT.glob("hwbench/energy/**/*.py"),
    *ROOT.glob("hwbench/meters/*.py"),
    ROOT / "hwbench/measure/modes/energy.py",
]


def test_every_flag_that_is_set_is_explained():
    words = {word for path in SOURCES for word in flag_words(path)}
    flaglike = {word for word in words if re.fullmatch(r"[a-z]+(_[a-z]+)*", word)}
    assert {"window_too_short", "dephased", "few_repeats", "aliasing_risk", "unit_guess"} <= flaglike, "sees too little"
    assert flaglike - set(FLAGS) - {"flags", "check", "energy", "power", "total"} == set()


def test_no_flag_is_explained_that_is_never_set():
    text = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES if path.name != "flags.py")
    assert {name for name in FLAGS if not re.search(rf"\b{name}\b", text)} == set()


@pytest.mark.parametrize(("trap", "tests"), table("## Traps"))
def test_every_trap_has_its_test(trap, tests):
    names = re.findall(r"`(test_\w+)`", tests)
    assert names, trap
    assert [name for name in names if name not in TESTS] == []


@pytest.mark.parametrize("number", range(1, 18))
def test_every_known_answer_has_a_named_test(number):
    if number in {14, 15, 16}:
        known = (ROOT / "tests/unit/energy/test_known_answers.py").read_text(encoding="utf-8")
        where = re.search(rf"\* K{number} .*?``(tests/[\w/]+\.py)``", known, re.DOTALL)[1]
        assert f"def test_k{number}_" in (ROOT / where).read_text(encoding="utf-8")
    assert any(name.startswith(f"test_k{number}_") for name in TESTS)


def test_the_checks_of_the_selftest_are_the_code():
    assert [row[0].strip("`") for row in table("## Test a meter")] == [check.__name__ for check in CHECKS]


def test_the_fields_of_a_run_are_explained():
    told = " ".join(row[0] for row in table("## What is reported"))
    plain = {"meter", "boundary", "provenance", "time_per_inference_s"}
    assert [name for name in EnergyRun.__struct_fields__ if name not in plain and f"`{name}`" not in told] == []

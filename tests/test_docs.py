"""The documents are tested: commands and programs run, links lead somewhere, tables say what the code says.

How a document is run, block by block, in a folder of its own:

* A ``console`` block: each line after ``$ `` is a command for bash, which must succeed. What stands below it is its
  output, and must be; ``...`` stands for anything. ``<!-- output varies -->`` before the block says that the output
  was pasted from a run and is not compared.
* A ``python`` block is a program, run from that folder. Where its first line is ``# name.py`` it is written to that
  file instead; likewise ``toml``. A ``pyproject.toml`` counts as installed: its entry points are registered.
* ``<!-- not run: reason -->`` before a block leaves it out.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import typing
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer.main
from fixtures_results import full_result

import hwbench
from hwbench import errors
from hwbench.cli.main import app
from hwbench.cli.modes import FOR
from hwbench.measure import validity
from hwbench.measure.mlperf import PRESETS
from hwbench.records.measurement import Measurement, Mode, ProfileResult
from hwbench.report.delimited import to_csv

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")), ROOT / "profiles/README.md"]
LANGUAGES = {"console", "python", "toml", "json", "text", "yaml"}
FENCE = re.compile(
    r"^(?:<!-- (?P<marker>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
LIMIT_S = 600


def named(document):
    return str(document.relative_to(ROOT))


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    where: str
    language: str
    marker: str
    text: str

    @property
    def left_out(self):
        return self.marker.startswith("not run:")

    @property
    def file_name(self):
        match = re.match(r"# ([\w-]+\.(?:py|toml))\n", self.text)
        return match[1] if match else None

    def commands(self):
        """Yield each command and the output shown below it."""
        joined = self.text.replace("\\\n", " ")
        for part in re.split(r"^\$ ", joined, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            yield command, "" if self.marker == "output varies" else shown.strip()


def blocks(document):
    text = document.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        yield Block(f"{named(document)}:{line}", match["language"], match["marker"] or "", match["text"])


def runnable(document):
    return any(block.language in {"console", "python"} and not block.left_out for block in blocks(document))


def environment(folder):
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "HWBENCH_HOME": str(folder / ".hwbench"),
        "NO_COLOR": "1",
        "COLUMNS": "110",
    }


def run(command, block, folder):
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, cwd=folder, env=environment(folder), text=True, timeout=LIMIT_S, check=False, **both)
    allowed = (
        {0, errors.EXIT_INVALID} if block.marker == "output varies" else {0}
    )  # a hot machine is no fault of a page
    assert done.returncode in allowed, f"{block.where}: {command[-1]} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def matches(shown, actual):
    """Whether the output shown is the actual one, ``...`` standing for anything."""
    expected, found = (re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).strip() for text in (shown, actual))
    pattern = ".*".join(re.escape(part) for part in expected.split("..."))
    return re.fullmatch(pattern, found, re.DOTALL) is not None


def write(block, folder):
    (folder / block.file_name).write_text(block.text, encoding="utf-8")
    if block.file_name != "pyproject.toml":
        return
    project = tomllib.loads(block.text)["project"]
    installed = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]
    (installed / "entry_points.txt").write_text("\n".join(lines))


@pytest.mark.slow
@pytest.mark.parametrize("document", [document for document in DOCUMENTS if runnable(document)], ids=named)
def test_document_runs(document, tmp_path):
    for block in blocks(document):
        if block.left_out:
            continue
        if block.file_name:
            write(block, tmp_path)
        elif block.language == "python":
            run([sys.executable, "-c", block.text], block, tmp_path)
        elif block.language == "console":
            for command, shown in block.commands():
                actual = run(["bash", "-euo", "pipefail", "-c", command], block, tmp_path)
                assert not shown or matches(shown, actual), f"{block.where}: {command}\nshown:\n{shown}\nis:\n{actual}"


@pytest.mark.parametrize(
    ("shown", "actual", "same"),
    [("a\nb", "a  \nb\n", True), ("a ... c", "a b c", True), ("a\n...\nd", "a\nb\nc\nd", True), ("a", "b", False)],
)
def test_shown_output_is_compared(shown, actual, same):
    assert matches(shown, actual) is same


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_blocks_and_markers_are_known(document):
    text = document.read_text(encoding="utf-8")
    found = list(blocks(document))
    assert text.count("```") == 2 * len(found), "a fence is not closed, or does not begin a line"
    for block in found:
        assert block.language in LANGUAGES, f"{block.where}: '{block.language}' blocks are not known"
        known = not block.marker or block.marker == "output varies" or re.fullmatch(r"not run: .{10,}", block.marker)
        assert known, f"{block.where}: '{block.marker}' is no marker, or gives no reason"
        assert block.language != "console" or block.text.startswith("$ "), f"{block.where}: begins without a command"
    assert text.count("<!--") == sum(1 for block in found if block.marker), "a comment that belongs to no block"


def slugs(document):
    """Return the anchors of a document's headings, made as GitHub does."""
    text = FENCE.sub("", document.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_links_lead_somewhere(document):
    text = FENCE.sub("", document.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        there = (document.parent / path).resolve() if path else document
        assert there.exists(), f"{named(document)} links to {target}"
        assert not anchor or anchor in slugs(there), f"{named(document)} links to {target}: no such heading"


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_paths_and_verbs_in_prose_exist(document):
    text = FENCE.sub("", document.read_text(encoding="utf-8"))
    for path in re.findall(r"`((?:hwbench|tests|docs|profiles|kernels)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), f"{named(document)} names {path}"
    for verb in re.findall(r"`hwbench ([a-z]\w*)", text):
        assert verb in typer.main.get_command(app).commands, f"{named(document)} names 'hwbench {verb}'"
    assert not re.search(r"(?<![\w.])/(?:home|root|work|Users)/", text), "a path of somebody's machine"


def test_index_lists_every_document():
    index = read("docs/README.md")
    assert [path.name for path in ROOT.glob("docs/*.md") if f"({path.name})" not in index] == ["README.md"]
    methods = read("docs/compress.md")
    assert [path.name for path in ROOT.glob("docs/compress/*.md") if f"(compress/{path.name})" not in methods] == []


def test_changelog_has_this_version():
    assert f"## [{hwbench.__version__}]" in read("CHANGELOG.md")


def sections():
    """Return the text of commands.md by verb."""
    parts = re.split(r"^## `hwbench (\w+)`\n", read("docs/commands.md"), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_verb_is_documented():
    assert list(sections()) == list(typer.main.get_command(app).commands)
    readme = read("README.md")
    assert [verb for verb in sections() if f"`hwbench {verb}`" not in readme] == []


@pytest.mark.parametrize("verb", list(typer.main.get_command(app).commands))
def test_options_and_defaults_are_documented(verb):
    text = sections()["profile" if verb == "measure" else verb]  # which takes the same options, and says so
    options = [p for p in typer.main.get_command(app).commands[verb].params if p.opts[0].startswith("-")]
    shared = {"--quiet", "-q", "--verbose", "-v", "--no-color"}
    spelled = {name for option in options for name in (*option.opts, *option.secondary_opts)}
    rows = [line for line in text.splitlines() if line.startswith("| `-")]
    documented = {name for row in rows for name in re.findall(r"`(-[\w-]+)", row.split("|")[1])}
    assert documented == spelled - shared
    for option in options:
        row = next((row for row in rows if f"`{option.opts[0]}" in row), "")
        told = re.search(r"Default: ([\d.]*\w+)", option.help or "")
        default = told[1] if told else option.default
        if row and isinstance(default, str | float | int) and not isinstance(default, bool):
            assert str(default) in row.split("|")[2], f"the default of {option.opts[0]} is {default}"


def test_modes_and_presets_are_documented():
    text = read("docs/modes.md")
    modes = {row[0] for row in table("docs/modes.md", "# Modes")}
    assert modes == set(typing.get_args(Mode))
    rows = {row[0]: row for row in table("docs/modes.md", "## MLPerf-like presets")}
    assert set(rows) == set(PRESETS)
    for name, preset in PRESETS.items():
        assert preset.mode in rows[name][1]
        assert preset.least == 1 or str(preset.least) in rows[name][2]
    for option in set(FOR) - {"--layers", "--settle", "--max-duration", "--iterations", "--warmup"}:
        assert option in text, option


def table(document, heading):
    """Return the rows of the first table below a heading, as lists of cells without backticks."""
    below = read(document).partition(f"{heading}\n")[2]
    lines = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def findings():
    """Return code, possible severities and cure of every finding in validity.py, read from its source."""
    found = {}
    for node in ast.walk(ast.parse(Path(validity.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_finding":
            severities = {part.value for part in ast.walk(node.args[0]) if isinstance(part, ast.Constant)}
            found[node.args[1].value] = (severities & {"warning", "invalid"}, node.args[3].value)
    return found


def test_validity_table_is_the_code():
    rows = {code: (severity, when, cure) for code, severity, when, cure in table("docs/concepts.md", "## Validity")}
    assert set(rows) == set(findings())
    for code, (severities, cure) in findings().items():
        severity, _, shown = rows[code]
        assert {word for word in ("warning", "invalid") if word in severity} == severities, code
        assert shown.replace("`", "") == cure.replace("`", ""), code


def test_validity_thresholds_are_the_code():
    rows = {code: when for code, _, when, _ in table("docs/concepts.md", "## Validity")}
    stated = {
        "_DISTURBED": ("layers_disturbed", "{:.0%}"),
        "_NOISY_IQR": ("noisy", "{:.0%}"), "_DRIFT": ("drift", "{:.0%}"), "_STEAL": ("stolen_time", "{:.0%}"),
        "_FOREIGN": ("foreign_load", "{:.0%}"), "_CLOCK_CHANGE": ("clock_changed", "{:.0%}"),
        "_GPU_HELD": ("gpu_throttled", "{:.0%}"), "_GPU_CLOCK_CHANGE": ("gpu_clock_changed", "{:.0%}"),
        "_TOO_SHORT_S": ("near_clock", "{:.0e} s"), "_FEW": ("too_few_samples", "fewer than {}"),
        "FEWEST": ("too_few_samples", "fewer than {}"), "_SUSTAINED_S": ("short_sustained", "less than {} s"),
        "_LATE": ("late_arrivals", "over {:.0%}"), "_BUILDS": ("builds_differ", "over {:.0%}"),
    }  # fmt: skip
    numbers = {name for name, value in vars(validity).items() if name.isupper() and isinstance(value, int | float)}
    assert numbers - {"_SHORTEST_TOLD_S"} == set(stated)
    assert f"below {validity._SHORTEST_TOLD_S} s" in " ".join(read("docs/concepts.md").split())
    for name, (code, form) in stated.items():
        assert form.format(getattr(validity, name)).replace("e-0", "e-") in rows[code].replace(" %", "%"), code
    for precision, limits in validity._PARITY.items():
        for limit in limits:
            assert f"{precision} {limits[0]:g}/{limits[1]:g}" in rows["outputs_differ"], (precision, limit)


def test_exit_codes_are_the_code():
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert {int(row[0]) for row in table("README.md", "## Exit codes")} == codes


def test_result_fields_and_columns_are_documented():
    text = read("docs/results.md")
    names = {*ProfileResult.__struct_fields__, *Measurement.__struct_fields__}
    for what in ("measurements", "layers", "samples"):
        names |= set(to_csv(full_result(), what).partition("\r\n")[0].split(","))
    assert sorted(name for name in names if not re.search(rf"\b{name}\b", text)) == []


def test_layers_are_those_that_import_linter_enforces():
    contracts = tomllib.loads(read("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    shown = next(block.text for block in blocks(ROOT / "docs/design.md") if block.language == "text")
    assert [line.strip() for line in shown.splitlines()] == layers

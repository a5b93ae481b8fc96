"""What must start quickly loads nothing heavy. How quickly it does start, tests/benchmarks/test_startup.py times."""

import subprocess
import sys

import pytest

RUNTIMES = {"torch", "onnx", "onnx_ir", "onnxruntime", "openvino"}
HEAVY = RUNTIMES | {"numpy", "scipy", "sklearn", "jinja2", "pytest"}


def loaded_after(code):
    """Run ``code`` in a fresh Python; returns what it prints and the heavy modules that are then loaded."""
    code = f"import sys\n{code}\nprint('|', *sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    said, _, modules = done.stdout.rpartition("|")
    return said, set(modules.split())


@pytest.mark.parametrize(
    "module",
    ["hwbench", "hwbench.cli.main", "hwbench.inventory", "hwbench.plugins", "hwbench.files", "hwbench.children"],
)
def test_importing(module):
    assert loaded_after(f"import {module}") == ("", set())


@pytest.mark.parametrize("module", ["hwbench.stats", "hwbench.pipeline", "hwbench.report.text", "hwbench.protocols"])
def test_importing_loads_no_runtime(module):
    said, loaded = loaded_after(f"import {module}")
    assert said == ""
    assert not loaded & RUNTIMES


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["devices"], ["models"], ["profile", "--help"], ["compress", "--help"]]
)
def test_a_quick_command_loads_nothing_heavy(arguments):
    said, loaded = loaded_after(f"from hwbench.cli.main import main\nassert main({arguments!r}) == 0")
    assert said.strip()
    assert loaded == set()


@pytest.mark.parametrize("arguments", [["plugins"], ["methods"], ["methods", "width"]])
def test_listing_methods_loads_the_graph_library_and_no_runtime(arguments):
    said, loaded = loaded_after(f"from hwbench.cli.main import main\nassert main({arguments!r}) == 0")
    assert said.strip()
    assert loaded <= {"numpy", "onnx", "onnx_ir"}


@pytest.mark.parametrize("kind", ["engines", "meters", "devices"])
def test_every_plugin_imports_without_its_runtime(kind):
    code = f"from hwbench import plugins\nfor name in plugins.available({kind!r}): plugins.load({kind!r}, name)"
    said, loaded = loaded_after(code)
    assert said == ""
    assert not loaded & RUNTIMES

"""One finished run that many tests look at, and the stub engines, each made once."""

from types import SimpleNamespace

import pytest
from command import QUICK, engines, hwbench, stub_package, tiny_onnx


@pytest.fixture(scope="session")
def stubs(tmp_path_factory):
    """A folder for ``PYTHONPATH`` with every stub engine."""
    names = ("good", "slow", "killed", "crashed", "hungry", "layerless", "parent", "broken", "writes", "torn")
    return stub_package(tmp_path_factory.mktemp("stubs"), *names)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, stubs):
    """A finished run of two engines on a tiny network, with ``--json``."""
    cwd = tmp_path_factory.mktemp("finished")
    tiny_onnx(cwd / "tiny.onnx", weight=0.0)  # what the stub answers, too
    chosen = engines("onnxruntime", "stub-good")
    run = hwbench("profile", "tiny.onnx", *QUICK, *chosen, "-o", "out", "--json", cwd=cwd, path=[stubs])
    assert run.returncode == 0, run.stderr
    return SimpleNamespace(cwd=cwd, folder=cwd / "out", run=run)

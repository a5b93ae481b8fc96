"""``hwbench optimize`` from outside: what it refuses, before anything is done. tests/e2e runs it whole."""

import numpy as np
import pytest
from command import failed, hwbench, tiny_onnx

ASKED = ("--data", "data.npz", "--max-drop", "1pp")


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    folder = tmp_path_factory.mktemp("optimize")
    tiny_onnx(folder / "tiny.onnx")
    np.savez(folder / "data.npz", x=np.zeros((2, 3, 8, 8), np.float32))
    return folder


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*ASKED, "-p", "int9"), "no precision is called 'int9'"),
        ((*ASKED, "--resume"), "holds nothing that was begun"),
        (ASKED, "has 2 samples, too few to be divided"),
    ],
)
def test_wrong_requests(net, tmp_path, arguments, said):
    failed(hwbench("optimize", "tiny.onnx", *arguments, "-o", tmp_path / "out", cwd=net), 2, said)
    assert not (tmp_path / "out" / "work").exists()


def test_what_is_there_is_not_replaced(net, tmp_path):
    (tmp_path / "optimization.json").write_text("{}")
    run = hwbench("optimize", "tiny.onnx", *ASKED, "-o", tmp_path, cwd=net)
    failed(run, 2, "holds a result already", "--force")
    assert (tmp_path / "optimization.json").read_text() == "{}"

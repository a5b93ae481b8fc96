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
        ((*ASKED, "--recover-data", "train.npz"), "--recover-data is of a training, and there is none"),
        ((*ASKED, "--recover", "2", "--recover-set", "rate=1"), "finetune: Object contains unknown field `rate`"),
        ((*ASKED, "--recover", "2", "--recover-set", "epochs=1"), "say the same"),
        ((*ASKED, "--recover", "2", "--recover-set", "flip"), "--recover-set 'flip' is no setting"),
        ((*ASKED, "--resume"), "holds nothing that was begun"),
        (ASKED, "has 2 samples, too few to be divided"),
    ],
)
def test_wrong_requests(net, tmp_path, arguments, said):
    failed(hwbench("optimize", "tiny.onnx", *arguments, "-o", tmp_path / "out", cwd=net), 2, said)
    assert not (tmp_path / "out" / "work").exists()


@pytest.mark.parametrize("verb", ["optimize", "plan"])
def test_a_store_that_cannot_be_is_told_of_at_once(net, tmp_path, verb):
    asked = ("tiny.onnx", "--data", "nothing.npz", "--max-drop", "1pp", "-o", tmp_path / "out")  # read after that
    run = hwbench(verb, *asked, cwd=net, HWBENCH_STORE="/costs.sqlite")
    failed(run, 2, "'/costs.sqlite' is no URL of a database", "sqlite:////path/costs.sqlite")
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_replaced(net, tmp_path):
    (tmp_path / "optimization.json").write_text("{}")
    run = hwbench("optimize", "tiny.onnx", *ASKED, "-o", tmp_path, cwd=net)
    failed(run, 2, "holds a result already", "--force")
    assert (tmp_path / "optimization.json").read_text() == "{}"

"""A real search over the digits network: built, judged and timed; gone on with; and what is refused before the work."""

import json
import shutil
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from command import hwbench

from hwbench import search_pipeline
from hwbench.cli.main import main
from hwbench.errors import EngineError
from hwbench.records.base import Missing
from hwbench.records.search import SearchResult

pytest.importorskip("onnxruntime", reason="points are built with ONNX Runtime here")
pytest.importorskip("optuna", reason="the sampler is Optuna's")
pytest.importorskip("torch", reason="the digits network is a torch module")

SPACE = '[runtime]\nprecision = ["fp32", "fp16"]\nthreads = 1\n'
ASKED = (
    "--objective", "latency", "--objective", "accuracy", "--constraint", "accuracy >= 90%", "--verify-data", "test.npz",
    "--duration", "0.05s", "--finals", "0", "--control-every", "1", "--seed", "1", "--sampler", "random",
)  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    from sklearn.datasets import load_digits

    cwd = tmp_path_factory.mktemp("search")
    images, labels = load_digits(return_X_y=True)
    x = (images.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    np.savez(cwd / "test.npz", x=x[900:1000], labels=labels[900:1000])
    (cwd / "space.toml").write_text(SPACE)
    first = hwbench("search", "digits_cnn", "--space", "space.toml", *ASKED, "--trials", "1", "-o", "out", cwd=cwd)
    assert first.returncode in {0, 1}, first.stderr  # 1: the point that cannot be built came first
    more = ("--trials", "9", "-o", "out", "--resume", "--json", "-q")
    run = hwbench("search", "digits_cnn", "--space", "space.toml", *ASKED, *more, cwd=cwd)
    return SimpleNamespace(cwd=cwd, first=first, run=run)


def test_it_goes_on_and_ends_when_every_point_was_tried(found):
    assert found.run.returncode == 0, found.run.stderr
    result = msgspec.json.decode(found.run.stdout, type=SearchResult)
    assert result == msgspec.json.decode((found.cwd / "out/search.json").read_bytes(), type=SearchResult)
    assert result.stopped == "every point of the space was tried: 2"
    by_state = {trial.state: trial for trial in result.trials if trial.same_as is None}
    done, refused = by_state["complete"], by_state["failed"]
    assert {done.params["runtime.precision"], refused.params["runtime.precision"]} == {"fp32", "fp16"}
    assert "fp16" in str(refused.reason), "a combination that the runtime does not have is a trial with its reason"
    assert result.pareto == (done.number,)
    assert result.best == done.number
    assert done.value("accuracy") > 0.95
    accuracy = next(each for each in done.quantities if each.metric == "accuracy")
    assert accuracy.low < accuracy.value <= accuracy.high
    assert 0 < done.value("latency") < 0.1


def test_what_is_kept_of_a_trial(found):
    result = msgspec.json.decode((found.cwd / "out/search.json").read_bytes(), type=SearchResult)
    done = next(trial for trial in result.trials if trial.state == "complete")
    folder = found.cwd / "out" / done.folder
    manifest = json.loads((folder / done.bundle / "manifest.json").read_text())
    assert done.artefact_sha256 in json.dumps(manifest)
    timed = json.loads((folder / "timing/result.json").read_text())
    assert timed["measurements"][0]["latency"]["median_s"] == done.value("latency")
    assert timed["measurements"][0]["artefact_sha256"] == done.artefact_sha256
    assert json.loads((folder / "trial.json").read_text())["number"] == done.number


def test_the_page_holds_the_record_and_its_figures(found):
    page = (found.cwd / "out/search.html").read_text()
    text = page.split('id="hwbench-data">')[1].split("</script>")[0]
    assert msgspec.json.decode(text, type=SearchResult).pareto
    figures = json.loads(page.split('id="hwbench-figures">')[1].split("</script>")[0])
    assert len(figures) == page.count("data-figure=")
    assert "https://" not in page.split("<script>")[0]


def test_a_finalist_that_fails_now_does_not_end_the_search(found, monkeypatch, capsys):
    def fails(*_):
        raise EngineError("trial 0 ended", hint="run it alone")

    shutil.copytree(found.cwd / "out", found.cwd / "again")
    monkeypatch.chdir(found.cwd)
    monkeypatch.setattr(search_pipeline, "contest", fails)
    asked = (*ASKED, "--finals", "1s", "--trials", "9", "-o", "again", "--resume", "-q")
    assert main(["search", "digits_cnn", "--space", "space.toml", *asked]) == 0
    result = msgspec.json.decode((found.cwd / "again/search.json").read_bytes(), type=SearchResult)
    assert result.stopped == "every point of the space was tried: 2"
    assert isinstance(result.finals, Missing)
    assert "trial 0 ended" in result.finals.why
    assert result.finals.cure == "run it alone"


def refused(monkeypatch, capsys, found, *arguments):
    """Run the command here; return what it says when it ends with 2."""
    monkeypatch.chdir(found.cwd)
    assert main(["search", "digits_cnn", "--space", "space.toml", *arguments]) == 2
    return capsys.readouterr().err


def test_another_search_is_not_mixed_in(found, monkeypatch, capsys):
    asked = (*ASKED, "--trials", "2", "-o", "out")
    assert "holds a search already" in refused(monkeypatch, capsys, found, *asked)
    assert "otherwise: verify, timing, seed" in refused(monkeypatch, capsys, found, *asked, "--resume", "--seed", "2")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--objective", "accuracy", "--trials", "1"), "give --verify-data"),
        (("--objective", "latency", "--sampler", "tpe"), "when to stop"),
        (("--objective", "latency", "--trials", "1", "--rank", "3", "--data", "test.npz"), "no [model]"),
        (("--objective", "latency", "--trials", "1", "--constraint", "speed <= 3"), "nothing that is measured"),
        (("--objective", "latency", "--trials", "1", "--resume"), "no search in"),
    ],
)
def test_what_cannot_come_out_well_is_refused(found, monkeypatch, capsys, more, says):
    assert says in refused(monkeypatch, capsys, found, "-o", "refused", *more)
    assert not (found.cwd / "refused/trials").exists()

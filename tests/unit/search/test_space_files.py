"""Space files: what they say, and what is wrong with them, said with the parameter's name."""

import itertools

import pytest

from hwbench.errors import UsageError
from hwbench.records.search import Parameter
from hwbench.search.points import count, point_of, points, whole
from hwbench.search.space import read_space, space_of

WHOLE = """
[runtime]
engine = ["onnxruntime", "openvino"]
precision = ["fp32", "int8"]
threads = { low = 1, high = 4 }

[calibration]
estimator = ["mse", "percentile"]
percentile = { low = 99.5, high = 99.9, step = 0.2, when = { estimator = "percentile", runtime.precision = "int8" } }
samples = 64

[model]
width = { low = 0.25, high = 1.0, step = 0.25 }

[training]
epochs = 3
learning_rate = { low = 1e-3, high = 1.0, log = true }
batch_size = [16, 32]

[compression.cut]
method = "width"
use = [true, false]
amount = { values = [0.25, 0.5], when = { use = true } }

[recovery]
epochs = 1
"""


@pytest.fixture
def space(tmp_path):
    (tmp_path / "space.toml").write_text(WHOLE)
    return read_space(tmp_path / "space.toml", threads=2)


def test_kinds_and_defaults(space):
    by_name = {one.name: one for one in space.parameters}
    assert by_name["runtime.threads"] == Parameter(name="runtime.threads", kind="integer", low=1, high=4)
    assert by_name["training.learning_rate"].log
    assert by_name["model.width"].kind == "real"
    assert by_name["runtime.batch_size"].fixed
    assert by_name["calibration.percentile"].when == {
        "calibration.estimator": ("percentile",),
        "runtime.precision": ("int8",),
    }
    names = [one.name for one in space.parameters]
    assert names.index("compression.cut.use") < names.index("compression.cut.amount")


def test_points_are_the_product_of_what_is_there():
    space = space_of(
        {
            "runtime": {"precision": ["fp32", "int8"], "threads": {"low": 1, "high": 3}},
            "calibration": {"estimator": {"values": ["mse", "minmax"], "when": {"runtime.precision": "int8"}}},
        },
        threads=1,
    )
    expected = {("fp32", threads, None) for threads in (1, 2, 3)} | set(
        itertools.product(["int8"], (1, 2, 3), ["mse", "minmax"])
    )
    found = [
        (one["runtime.precision"], one["runtime.threads"], one.get("calibration.estimator")) for one in points(space)
    ]
    assert len(found) == len(set(found)) == count(space) == 9
    assert set(found) == expected


def test_a_point_says_what_is_to_be_done(space):
    params = {
        "runtime.engine": "openvino", "runtime.precision": "int8", "runtime.threads": 3, "model.width": 0.5,
        "calibration.estimator": "percentile", "calibration.percentile": 99.7, "training.learning_rate": 0.1,
        "training.batch_size": 16, "compression.cut.use": True, "compression.cut.amount": 0.5,
    }  # fmt: skip
    point = point_of(space, params, seed=7)
    assert (point.engine, point.threads, point.samples, point.training_batch_size) == ("openvino", 3, 64, 16)
    assert point.arguments == {"width": 0.5}
    assert (point.calibration.percentile, point.calibration.seed) == (99.7, 7)
    assert point.training.settings == {"teacher": False, "epochs": 3, "learning_rate": 0.1}
    assert [(step.method, step.settings) for step in point.steps] == [
        ("width", {"amount": 0.5}),
        ("finetune", {"epochs": 1}),
    ]
    without = {name: value for name, value in params.items() if name != "compression.cut.amount"}
    without["compression.cut.use"] = False
    assert point_of(space, without, seed=7).steps == (), "without compression there is nothing to recover from"
    assert "compression.cut.amount" not in whole(space, params | {"compression.cut.use": False})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[runtim]\nengine = 'x'", "no section 'runtim'"),
        ("[runtime]\nengines = 'onnxruntime'", "no 'runtime.engines'"),
        ("[runtime]\nengine = 'onnxrutime'", "'runtime.engine' cannot be 'onnxrutime'"),
        ("[runtime]\nprecision = ['fp32', 'int9']", "'runtime.precision' cannot be 'int9'"),
        ("[runtime]\nthreads = { low = 0, high = 2 }", "'runtime.threads' cannot be 0"),
        ("[runtime]\nthreads = { low = 1.0, high = 2 }", "'runtime.threads' cannot be 1.0"),
        ("[runtime]\nthreads = { low = 3, high = 2 }", "low, 3, is above high"),
        ("[runtime]\nthreads = { low = 1, high = 4, step = 2 }", "no whole steps"),
        ("[runtime]\nthreads = { low = 1 }", "needs low and high"),
        ("[runtime]\nthreads = []", "has no values"),
        ("[runtime]\nthreads = [1, 1]", "a value twice"),
        ("[calibration]\npercentile = [99.9, 12.0]", "'calibration.percentile' cannot be 12.0"),
        ("[calibration]\nestimator = [1]", "'calibration.estimator' cannot be 1"),
        ("[training]\nlearning_rate = { low = 0.0, high = 1.0, log = true }", "low must be above 0"),
        ("[training]\nlearning_rate = -1.0", "'training.learning_rate' cannot be -1.0"),
        ("[training]\nlearning_rat = 1.0", "no 'training.learning_rat'"),
        ("[recovery]\nepochs = 1", "nothing to recover from"),
        ("[compression.cut]\nmethod = 'widht'", "widht"),
        ("[compression.cut]\nmethod = 'width'\namont = 0.5", "no 'compression.cut.amont'"),
        ("[model]\nwidth = { low = 1, high = 2, when = { depth = 1 } }", "'model.depth', which there is not"),
        ("[model]\na = [1, 2]\nb = { values = [1], when = { a = 3 } }", "can never be there"),
        (
            "[model]\na = { values = [1, 2], when = { b = 1 } }\nb = { values = [1, 2], when = { a = 1 } }",
            "in a circle: model.a, model.b",
        ),
        ("[runtime", "not TOML"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, text, says):
    (tmp_path / "space.toml").write_text(text)
    with pytest.raises(UsageError) as error:
        read_space(tmp_path / "space.toml", threads=1)
    assert says in error.value.message


def test_a_space_without_end_is_refused():
    space = space_of({"training": {"learning_rate": {"low": 0.1, "high": 1.0}}}, threads=1)
    assert count(space) is None
    with pytest.raises(UsageError, match=r"training\.learning_rate"):
        list(points(space))

"""Plans: from a word, from a file, and held against the layers of a model."""

import made_bundles
import pytest
from sparse_examples import with_strips

from hwbench.build.plan import plan_for, read_plan, settled
from hwbench.errors import UsageError
from hwbench.records.quantization import PRECISIONS, PrecisionPlan


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return made_bundles.imported(tmp_path_factory.mktemp("net")).model


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_plan_is_called_what_was_asked_for(precision):
    plan = plan_for(precision)
    assert plan.label == precision
    assert plan.needs_ranges == (precision in {"int8", "fp8"})
    assert (plan.default == "float") == (precision in {"fp32", "tf32", "fp16", "bf16", "auto"})


def test_an_unknown_precision_names_the_known_ones():
    with pytest.raises(UsageError, match="'int7'") as told:
        plan_for("int7")
    assert "int8-dynamic" in told.value.hint


def test_float_alone_says_nothing():
    with pytest.raises(UsageError):
        plan_for("float")


def test_a_plan_is_read(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text('default = "int8"\nfloating = "bf16"\n[layers]\n"a/b" = "float"\nc = "int4-weights"\n')
    plan = read_plan(path)
    assert plan == PrecisionPlan(default="int8", floating="bf16", layers={"a/b": "float", "c": "int4-weights"})
    assert [plan.of(name) for name in ("a/b", "c", "d")] == ["float", "int4-weights", "int8"]
    assert plan.label == "int8-mixed"


def test_kernels_of_a_plan_are_read_and_held_against_the_layers(tmp_path, model, monkeypatch):
    with_strips(monkeypatch)
    path, name = tmp_path / "plan.toml", model.layers[0].name
    path.write_text(f'default = "float"\nfloating = "fp16"\n[kernels]\n"{name}" = "strips"\n')
    plan = read_plan(path)
    assert plan.kernels == {name: "strips"}
    assert plan.label == "fp16-sparse"
    assert settled(plan, model, []).kernels == plan.kernels
    with pytest.raises(UsageError, match="a layer 'other'"):
        settled(PrecisionPlan(default="float", kernels={"other": "strips"}), model, [])
    with pytest.raises(UsageError, match="no sparse format 'stripes'"):
        settled(PrecisionPlan(default="float", kernels={name: "stripes"}), model, [])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('default = "int8', "Unterminated"),
        ('default = "int7"\n', "int7"),
        ('floating = "fp32"\n', "default"),
        ('default = "int8"\nfloating = "int8"\n', "floating"),
        ('default = "int8"\n[layers]\na = "fp16"\n', "fp16"),
        ('default = "int8"\n[layer]\na = "float"\n', "layer"),
        ('default = "int8"\nlayers = ["a"]\n', "layers"),
    ],
)
def test_a_plan_that_is_none(tmp_path, text, told):
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        read_plan(path)
    assert str(path) in error.value.message
    assert told in error.value.message


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None])
def test_a_plan_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "plan.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match="--plan"):
        read_plan(path)


def test_an_unknown_layer_is_told_with_what_is_near(model):
    names = [layer.name for layer in model.layers]
    near = names[0][:-1] + "~"
    with pytest.raises(UsageError, match="the plan names a layer") as told:
        settled(PrecisionPlan(default="int8", layers={near: "float"}), model, ())
    assert names[0] in told.value.hint
    with pytest.raises(UsageError, match="stands for no layer") as told:
        settled(plan_for("int8"), model, ["nothing like that*"])
    assert f"among {len(names)}" in told.value.hint


def test_wildcards_keep_every_layer_they_stand_for(model):
    names = [layer.name for layer in model.layers]
    assert settled(plan_for("int8"), model, ["*"]).layers == dict.fromkeys(names, "float")
    one = settled(plan_for("int8"), model, [names[0]])
    assert one.layers == {names[0]: "float"}
    assert one.label == "int8-mixed"
    assert settled(plan_for("int8"), model, ()).layers == {}


def test_keep_float_is_above_the_plan(model):
    name = model.layers[0].name
    plan = PrecisionPlan(default="int8", layers={name: "int8-weights"})
    assert settled(plan, model, [name]).layers == {name: "float"}


def test_a_name_with_brackets_is_itself():
    """ONNX names may hold what is a pattern elsewhere."""
    layer = type("Layer", (), {"name": "conv[0]"})
    model = type("Model", (), {"layers": (layer,)})
    assert settled(plan_for("int8"), model, ["conv[0]"]).layers == {"conv[0]": "float"}

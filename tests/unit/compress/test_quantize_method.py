"""The method ``quantize``: grids, books, refusals, training, and the simulation it ends with."""

import msgspec
import numpy as np
import onnx_graphs as graphs
import onnx_ir as ir
import pytest
import torch
from compress_subjects import imported, random_samples, subject_of
from onnx import TensorProto, helper

from hwbench.compress.codebooks import write
from hwbench.compress.methods.quantize import Quantize, QuantizeSettings
from hwbench.compress.methods.share import Share, ShareSettings
from hwbench.compress.order import Planned, settings_of
from hwbench.compress.quantising import Grain, on_grid
from hwbench.compress.run import apply
from hwbench.compress.simulated import CALIBRATION
from hwbench.compress.worker import last_ranges
from hwbench.data.samples import Samples
from hwbench.errors import UsageError
from hwbench.files import read_record
from hwbench.graph.onnx_file import infer_shapes
from hwbench.models.digits import load_digits_split
from hwbench.quantize.weights import least_squares_scales, quantise, weight_scales
from hwbench.records.compression import Step
from hwbench.records.quantization import CALIBRATION_SCHEMA, Calibration

METHOD = Quantize()


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def applied(subject, **settings):
    chosen = QuantizeSettings(**settings)
    legal = METHOD.legal(subject, chosen)
    return METHOD.apply(subject, [name for name, why in legal.items() if why is None], chosen)


def two_layers(batch=4):
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Flatten", ["r"], ["f"], "flat"),
        helper.make_node("MatMul", ["f", "m"], ["y"], "product"),
    ]
    weights = [
        graphs.weight("w", graphs.random_array(6, 3, 3, 3)),
        graphs.weight("b", graphs.random_array(6, seed=1)),
        graphs.weight("m", graphs.random_array(96, 10, seed=2)),
    ]
    made = graphs.model(nodes, [graphs.tensor("x", [batch, 3, 4, 4])], [graphs.tensor("y", [batch, 10])], weights)
    return infer_shapes(ir.from_proto(made))


def weight(subject, name):
    return subject.layers()[name].weight


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("granularity", ["channel", "tensor", "group:32"])
@pytest.mark.parametrize("scale", ["max", "mse"])
def test_weights_take_few_values_and_the_books_say_so(tmp_path, bits, granularity, scale):
    subject = subject_of(two_layers(), tmp_path)
    before = weight(subject, "product")
    outcome = applied(subject, weight_bits=bits, granularity=granularity, scale=scale)
    after = weight(subject, "product")
    parts = {
        "channel": after.T,
        "tensor": after.reshape(1, -1),
        "group:32": after.reshape(3, 32, 10).transpose(0, 2, 1).reshape(30, 32),
    }[granularity]
    most = 2**bits - 1
    assert all(len(np.unique(part)) <= most for part in parts)
    scales = {"channel": 10, "tensor": 1, "group:32": 30}[granularity]
    assert subject.bits["m"] == pytest.approx(bits + 32 * scales / 960)
    changed = {change.layer for change in outcome.changes}
    assert changed == ({"product"} if granularity == "group:32" else {"conv", "product"})
    assert all(change.kind == "quantised" for change in outcome.changes)
    error = np.sum((after - before) ** 2) / np.sum(before**2)
    assert error < {8: 1e-3, 4: 0.1, 2: 0.75}[bits]
    if "conv" not in changed:
        np.testing.assert_array_equal(weight(subject, "conv"), graphs.random_array(6, 3, 3, 3))


@pytest.mark.parametrize("bits", [4, 2])
def test_least_squares_scales_are_no_worse_than_any_other(bits):
    weights = graphs.random_array(5, 40).astype(float)
    largest = 2 ** (bits - 1) - 1

    def error(scales):
        steps = quantise(weights, scales, 0, largest=largest)
        return ((steps * scales.astype(float)[:, None] - weights) ** 2).sum(1)

    best = error(least_squares_scales(weights, 0, largest=largest))
    full = weight_scales(weights, 0, largest=largest)
    for fraction in np.linspace(0.12, 1, 300):
        assert (best <= error((full * fraction).astype("f4")) * 1.02).all()


def test_rounded_weights_are_found_again_by_a_build(tmp_path):
    """What was rounded to eight bits is left as it is by the grid of the largest weight, which every runtime takes."""
    subject = subject_of(two_layers(), tmp_path)
    applied(subject, scale="max")
    layer = subject.layers()["conv"]
    again = on_grid(layer, 8, Grain(), "max")
    np.testing.assert_allclose(again.numbers, layer.weight, rtol=1e-6)


def test_bits_by_layer(tmp_path):
    subject = subject_of(two_layers(), tmp_path)
    outcome = applied(subject, overrides={"pro.*": 2, ".*": 4})
    assert {change.layer: change.what[0] for change in outcome.changes} == {"conv": "4", "product": "2"}
    assert len(np.unique(weight(subject, "product")[:, 0])) <= 3


def test_zeros_stay_zeros(tmp_path):
    model = two_layers()
    subject = subject_of(model, tmp_path)
    layer = subject.layers()["conv"]
    blocks = layer.blocks()
    blocks[:, ::2] = 0
    layer.set_blocks(blocks)
    applied(subject, weight_bits=4)
    assert (subject.layers()["conv"].blocks()[:, ::2] == 0).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"weight_bits": 3}, "8, 4 or 2"),
        ({"overrides": {"a": 16}}, "8, 4 or 2"),
        ({"overrides": {"(": 4}}, "no regular expression"),
        ({"granularity": "row"}, "channel, tensor or group:K"),
        ({"granularity": "group:0"}, "channel, tensor or group:K"),
        ({"granularity": "group:32", "activation_bits": 8}, "in groups"),
        ({"rounding": "adaround"}, "largest weight"),
        ({"activation_bits": 16}, "no kernels for activations of 16"),
        ({"activation_bits": 4}, "8 or 16 bits"),
        ({"qat_epochs": -1}, "at least 0"),
    ],
)
def test_settings_that_make_no_sense(settings, said):
    with pytest.raises(UsageError, match=said):
        QuantizeSettings(**settings)


def test_unknown_settings_are_refused():
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"bits": 4}, QuantizeSettings)


def test_a_step_is_read_and_carried_out(tmp_path):
    """As ``--set`` and a recipe give settings: numbers as numbers, words as words."""
    model = two_layers()
    subject = subject_of(model, tmp_path, samples=random_samples(model, 16, classes=10))
    given = {"weight_bits": 4, "activation_bits": 8, "runtime": "litert", "overrides": {"product": 8}}
    step = Step(method="quantize", layers=".*", settings=given)
    planned = Planned(step=step, compressor=METHOD, settings=settings_of(step, METHOD))
    done = apply(planned, subject, ())
    assert {change.layer: change.what[0] for change in done.changes} == {"conv": "4", "product": "8"}
    assert done.settings["granularity"] == "channel"
    assert done.figures["agreement"] >= 0


def test_what_is_left_alone_and_why(tmp_path):
    subject = subject_of(two_layers(), tmp_path)
    legal = METHOD.legal(subject, QuantizeSettings(granularity="group:16"))
    assert legal["conv"].code == "granularity"
    assert legal["product"] is None


def test_one_scale_for_a_layer_before_a_batch_norm_is_refused(digits_cnn, tmp_path):
    legal = METHOD.legal(_digits(digits_cnn, tmp_path), QuantizeSettings(granularity="tensor"))
    codes = [None if why is None else why.code for why in legal.values()]
    assert codes == ["batch-norm"] * 3 + [None]


def test_ranges_and_figures_with_activations(tmp_path):
    model = two_layers()
    subject = subject_of(model, tmp_path, samples=random_samples(model, 32, classes=10))
    outcome = applied(subject, activation_bits=8, runtime="openvino")
    assert outcome.figures["sqnr_db"] > 25
    assert 0 <= outcome.figures["accuracy"] <= 1
    assert outcome.figures["samples"] == 32
    found = read_record(tmp_path / CALIBRATION, Calibration, schema=CALIBRATION_SCHEMA)
    assert {"x", "c", "r", "f"} <= set(found.tensors)
    assert found.data.samples == 32


def test_activations_need_samples(tmp_path):
    with pytest.raises(UsageError, match="needs samples"):
        applied(subject_of(two_layers(), tmp_path), activation_bits=8)


def test_without_samples_nothing_is_simulated(tmp_path):
    outcome = applied(subject_of(two_layers(), tmp_path))
    assert outcome.figures == {}
    assert any("not simulated" in note for note in outcome.notes)


def test_adaround_is_no_worse_on_the_layers_output(tmp_path):
    model = two_layers()
    rng = np.random.default_rng(0)
    samples = Samples(inputs={"x": np.abs(rng.normal(size=(64, 3, 4, 4))).astype("f4")}, labels=None, batch=4)

    def error(**settings):
        subject = subject_of(ir.from_proto(ir.to_proto(model)), tmp_path, samples=samples)
        layers = ["conv"]
        METHOD.apply(subject, layers, QuantizeSettings(weight_bits=4, scale="max", **settings))
        view, teacher = subject.view(), subject.teacher()
        x = torch.from_numpy(samples.inputs["x"][:4])
        with torch.no_grad():
            return float(sum(((view(x)[0] - teacher(x)[0]) ** 2).sum() for _ in range(1)))

    assert error(rounding="adaround") < error()


@pytest.fixture(scope="module")
def digits_cnn(tmp_path_factory):
    return ir.to_proto(imported("digits_cnn", tmp_path_factory.mktemp("digits"), batch=32))


def _digits(digits_cnn, folder, *, labels=True):
    model = ir.from_proto(digits_cnn)
    x, y = load_digits_split()["train"]
    entry = model.graph.inputs[0].name
    samples = Samples(inputs={entry: x[:640]}, labels=y[:640] if labels else None, batch=32)
    return subject_of(model, folder, samples=samples)


def _accuracy(subject):
    x, y = load_digits_split()["test"]
    held_out = Samples(inputs={subject.model.graph.inputs[0].name: x}, labels=y, batch=32)
    view, right = subject.view(), []
    with torch.no_grad():
        for inputs, labels in held_out.in_order():
            right.extend(view(*subject.tensors(inputs))[0].argmax(1).numpy() == labels)
    return np.mean(right)


def test_training_recovers_two_bit_weights(digits_cnn, tmp_path):
    plain, trained = _digits(digits_cnn, tmp_path), _digits(digits_cnn, tmp_path)
    applied(plain, weight_bits=2)
    outcome = applied(trained, weight_bits=2, qat_epochs=2)
    assert _accuracy(plain) < 0.85
    assert _accuracy(trained) > 0.95
    assert outcome.figures["accuracy"] > 0.95
    for name in trained.layers():
        layer = trained.layers()[name]
        rows = np.moveaxis(layer.weight, layer.output_axis, 0).reshape(layer.output_channels, -1)
        assert all(len(np.unique(row)) <= 3 for row in rows), "the hub's weights lie on the grid"


def test_training_with_activations_and_without_labels(digits_cnn, tmp_path):
    subject = _digits(digits_cnn, tmp_path, labels=False)
    statistics = {
        name: value.const_value.numpy().copy()
        for name, value in subject.model.graph.initializers.items()
        if "running" in name
    }
    outcome = applied(subject, weight_bits=4, activation_bits=8, qat_epochs=1, learned_steps=True)
    assert outcome.figures["agreement"] > 0.95
    ranges = read_record(tmp_path / CALIBRATION, Calibration, schema=CALIBRATION_SCHEMA).tensors
    assert all(one.low <= 0 <= one.high for one in ranges.values())
    assert statistics
    for name, before in statistics.items():
        now = subject.model.graph.initializers[name].const_value.numpy()
        np.testing.assert_array_equal(now, before)


def test_the_seed_orders_the_samples_of_training(tmp_path):
    """Few samples: none are held out, so that the order is all that the seed decides."""
    model = two_layers()
    samples = random_samples(model, 16, classes=10)

    def trained(seed):
        subject = subject_of(ir.from_proto(ir.to_proto(model)), tmp_path / str(seed), samples=samples, seed=seed)
        applied(subject, qat_epochs=1)
        return weight(subject, "conv")

    np.testing.assert_array_equal(trained(1), trained(1))
    assert not np.array_equal(trained(1), trained(2))


def test_the_ranges_of_the_last_step_are_handed_out(tmp_path):
    for number in (2, 9, 10):
        (tmp_path / f"step-{number}").mkdir()
        (tmp_path / f"step-{number}" / CALIBRATION).touch()
    assert last_ranges(tmp_path) == tmp_path / "step-10" / CALIBRATION
    assert last_ranges(tmp_path / "step-2" / "none") is None


@pytest.mark.parametrize("earlier", ["share", "quantize"])
def test_training_leaves_what_lies_on_a_grid_or_codebook(tmp_path, earlier):
    model = two_layers()
    subject = subject_of(model, tmp_path, samples=random_samples(model, 16, classes=10))
    if earlier == "share":
        Share().apply(subject, ["conv"], ShareSettings(bits=2))
    else:
        METHOD.apply(subject, ["conv"], QuantizeSettings(weight_bits=2))
    before, bias = weight(subject, "conv"), subject.layers()["conv"].bias()
    METHOD.apply(subject, ["product"], QuantizeSettings(qat_epochs=1))
    np.testing.assert_array_equal(weight(subject, "conv"), before)
    assert not np.array_equal(subject.layers()["conv"].bias(), bias), "the rest of the layer is trained along"
    assert subject.on_grid == {"w", "m"}
    write(subject.model, subject.codebooks, tmp_path / "books.npz")


def tied(*, other=None):
    """An embedding that is the last layer's weights too; ``other``: one more layer reads them, transposed or not."""
    nodes = [
        helper.make_node("Gather", ["e", "x"], ["h"], "embedding"),
        helper.make_node("Gemm", ["h", "e"], ["y"], "head", transB=1),
    ]
    if other is not None:
        nodes.append(helper.make_node("Gemm", ["y", "e"], ["z"], "other", transB=other))
    ids, y = graphs.tensor("x", [4], TensorProto.INT64), graphs.tensor("z" if other is not None else "y", None)
    return infer_shapes(
        ir.from_proto(graphs.model(nodes, [ids], [y], [graphs.weight("e", graphs.random_array(16, 16))]))
    )


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_tied_embedding_stays_tied(tmp_path, epochs):
    model = tied()
    subject = subject_of(model, tmp_path, samples=random_samples(model, 16, classes=16))
    (change,) = applied(subject, weight_bits=4, qat_epochs=epochs).changes
    assert set(subject.model.graph.initializers) == {"e"}
    assert all(len(np.unique(row)) <= 15 for row in weight(subject, "head"))
    assert "embedding too" in change.what


def test_weights_of_two_layers_go_on_one_grid_or_none(tmp_path):
    subject = subject_of(tied(other=1), tmp_path)
    assert {change.layer for change in applied(subject, weight_bits=4).changes} == {"head", "other"}
    assert set(subject.model.graph.initializers) == {"e"}
    for settings in ({"overrides": {"head": 4}}, {"qat_epochs": 1}, {"rounding": "adaround", "scale": "max"}):
        legal = METHOD.legal(subject_of(tied(other=1), tmp_path), QuantizeSettings(**settings))
        assert [why.code for why in legal.values()] == ["shared_weights"] * 2
    across = METHOD.legal(subject_of(tied(other=0), tmp_path), QuantizeSettings())
    assert [why.code for why in across.values()] == ["shared_weights"] * 2
    assert {why.code for why in METHOD.legal(subject, QuantizeSettings()).values()} == {"on_a_grid"}
    assert {why.code for why in Share().legal(subject, ShareSettings()).values()} == {"on_a_grid"}

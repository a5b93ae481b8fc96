import msgspec
import numpy as np
import pytest

from hwbench.data.read import work
from hwbench.data.store import stored_inputs
from hwbench.errors import UsageError
from hwbench.graph.importer import import_model
from hwbench.records.data import DataJob
from hwbench.records.model import ImportJob


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    job = ImportJob(model="digits_cnn", batch_size=4, shapes={}, input_data=None, seed=0)
    return import_model(job, tmp_path_factory.mktemp("model")).model


@pytest.fixture
def read(model, tmp_path):
    def read(source, limit=None):
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        result = work(DataJob(data=str(source), model=model, limit=limit), folder, lambda event: None)
        labels = folder / "labels.npy"
        return result, stored_inputs(folder), np.load(labels) if labels.exists() else None

    return read


def images(model, n):
    return np.random.default_rng(0).random((n, *model.inputs[0].shape[1:]), dtype=np.float32)


def test_an_npz(model, read, tmp_path):
    np.savez(tmp_path / "d.npz", **{model.inputs[0].name: images(model, 6)}, labels=np.arange(6))
    result, inputs, labels = read(tmp_path / "d.npz")
    assert result.facts.samples == 6
    assert result.facts.labels
    assert inputs[model.inputs[0].name].shape[0] == 6
    assert labels.tolist() == [0, 1, 2, 3, 4, 5]


def test_one_array_of_any_name_and_narrower_type(model, read, tmp_path):
    np.savez(tmp_path / "d.npz", pictures=(images(model, 3) * 255).astype(np.uint8))
    result, inputs, labels = read(tmp_path / "d.npz")
    assert inputs[model.inputs[0].name].dtype == np.float32
    assert labels is None
    assert not result.facts.labels


def test_the_first_samples_only_and_another_hash(model, read, tmp_path):
    np.savez(tmp_path / "d.npz", x=images(model, 6), y=np.arange(6))
    whole, _, _ = read(tmp_path / "d.npz")
    part, _, labels = read(tmp_path / "d.npz", limit=2)
    assert part.facts.samples == 2
    assert labels.tolist() == [0, 1]
    assert part.facts.sha256 != whole.facts.sha256
    assert read(tmp_path / "d.npz")[0].facts.sha256 == whole.facts.sha256


@pytest.mark.parametrize("body", ["return x, y", "yield x[:2], y[:2]\n    yield x[2:], y[2:]", "return {'x': x}, y"])
def test_a_function(model, read, tmp_path, body):
    shape = tuple(model.inputs[0].shape[1:])
    (tmp_path / "d.py").write_text(
        f"import numpy as np\nx = np.ones((5, *{shape}), np.float32)\ny = np.arange(5)\n\ndef make():\n    {body}\n"
    )
    result, _, labels = read(f"{tmp_path / 'd.py'}:make")
    assert result.facts.samples == 5
    assert labels.tolist() == [0, 1, 2, 3, 4]


def test_a_generator_may_reuse_its_buffers(model, read, tmp_path):
    (tmp_path / "d.py").write_text(
        f"import numpy as np\nx = np.ones((2, *{tuple(model.inputs[0].shape[1:])}), np.float32)\ny = np.zeros(2, int)\n"
        "def make():\n    for n in range(3):\n        x[:] = n\n        y[:] = n\n        yield x, y\n"
    )
    _, inputs, labels = read(f"{tmp_path / 'd.py'}:make")
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert inputs[model.inputs[0].name].reshape(6, -1)[:, 0].tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("limit", [None, 2])
def test_labels_are_counted_in_each_batch(model, read, tmp_path, limit):
    # 3 + 1 labels for 2 + 2 samples: the total is right, and all labels after the first batch are shifted
    (tmp_path / "d.py").write_text(
        f"import numpy as np\nx = np.ones((2, *{tuple(model.inputs[0].shape[1:])}), np.float32)\n"
        "def make():\n    yield x, np.arange(3)\n    yield x, np.arange(1)\n"
    )
    with pytest.raises(UsageError, match="gave 2 samples and 3 labels"):
        read(f"{tmp_path / 'd.py'}:make", limit)


def test_a_label_for_every_two_samples(model, read, tmp_path):
    np.savez(tmp_path / "d.npz", x=images(model, 6), y=np.arange(3))
    assert read(tmp_path / "d.npz")[2].tolist() == [0, 1, 2]
    assert read(tmp_path / "d.npz", limit=4)[2].tolist() == [0, 1]


@pytest.mark.parametrize(("name", "others"), [("y", ("label", "labels")), ("labels", ("y",)), ("label", ("y",))])
def test_an_input_that_is_called_like_labels(model, tmp_path, name, others):
    called = msgspec.structs.replace(model, inputs=(msgspec.structs.replace(model.inputs[0], name=name),))
    good = images(model, 3)
    for number, labels in enumerate([None, *others]):
        arrays = {name: good} if labels is None else {name: good, labels: np.arange(3)}
        np.savez(tmp_path / "d.npz", **arrays)
        folder = tmp_path / str(number)
        folder.mkdir()
        result = work(DataJob(data=str(tmp_path / "d.npz"), model=called, limit=None), folder, lambda event: None)
        assert np.array_equal(stored_inputs(folder)[name], good)
        assert result.facts.labels == (labels is not None)


@pytest.mark.parametrize(
    ("given", "value", "takes", "told"),
    [
        ("float64", 0.5, "float32", "x.astype('float32')"),
        ("int64", 200, "float32", "x.astype('float32')"),
        ("int64", 30000, "int32", "x.astype('int32')"),  # tokens
        ("int64", 2**40, "int32", "range of int32"),
        ("uint8", 200, "int8", "range of int8"),
        ("uint8", 100, "int8", "range of int8"),  # this batch would fit, the next may not
        ("int8", -1, "uint8", "range of uint8"),
        ("int32", 200, "int8", "range of int8"),
        ("float32", 0.5, "int8", "range of int8"),
        ("complex64", 1, "float32", "give float32"),
    ],
)
def test_what_to_do_about_a_type_that_does_not_fit(model, tmp_path, given, value, takes, told):
    spec = msgspec.structs.replace(model.inputs[0], name="x", dtype=takes)
    np.savez(tmp_path / "d.npz", x=np.full((2, *spec.shape[1:]), value, given))
    job = DataJob(data=str(tmp_path / "d.npz"), model=msgspec.structs.replace(model, inputs=(spec,)), limit=None)
    with pytest.raises(UsageError, match=f"as {given}, the model takes {takes}") as caught:
        work(job, tmp_path, lambda event: None)
    assert told in caught.value.hint


def test_a_data_loader(model, read, tmp_path):
    pytest.importorskip("torch", reason="its DataLoader is no iterator and gives lists")
    (tmp_path / "d.py").write_text(
        "import torch\nfrom torch.utils.data import DataLoader, TensorDataset\n\n"
        f"def make():\n    x = torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, *{tuple(model.inputs[0].shape[1:])})\n"
        "    return DataLoader(TensorDataset(x, torch.arange(5)), batch_size=2)\n"
    )
    _, inputs, labels = read(f"{tmp_path / 'd.py'}:make")
    assert inputs[model.inputs[0].name][:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("made", ["[x, x]", "x", "{'x': x}", "None", "'text'"])
def test_what_is_neither_a_pair_nor_batches(model, read, tmp_path, made):
    (tmp_path / "d.py").write_text(
        f"import numpy as np\nx = np.ones((2, *{tuple(model.inputs[0].shape[1:])}), np.float32)\n"
        f"def make():\n    return {made}\n"
    )
    with pytest.raises(UsageError, match=r"gave a (list|ndarray|dict|NoneType|str)"):
        read(f"{tmp_path / 'd.py'}:make")


def test_refusals(model, read, tmp_path):
    def given(name, **arrays):
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    good = images(model, 4)
    broken = good.copy()
    broken[1] = np.nan
    for source, told in (
        (given("shape.npz", x=good[..., :-1]), "the model takes"),
        (given("wide.npz", x=good.astype(np.float64)), "as float64"),
        (given("few.npz", x=good, y=np.arange(3)), "4 samples and 3 labels"),
        (given("nan.npz", x=broken), "NaN"),
        (given("none.npz", x=good[:0]), "none"),
        (given("text.npz", x=good, y=np.array(["a"] * 4)), "not numbers"),
        (given("two.npz", a=good, b=good), "no array for the input"),
        (tmp_path / "nowhere.npz", "cannot be read"),
        (tmp_path / "data.csv", "neither"),
        (f"{tmp_path}/no.py:make", "cannot be imported"),
    ):
        with pytest.raises(UsageError, match=told):
            read(source)
    (tmp_path / "bad.py").write_text("def three():\n    return 1, 2, 3\n\ndef fails():\n    return 1 / 0\n")
    with pytest.raises(UsageError, match=r"gave a tuple"):
        read(f"{tmp_path}/bad.py:three")
    with pytest.raises(UsageError, match="ZeroDivisionError"):
        read(f"{tmp_path}/bad.py:fails")

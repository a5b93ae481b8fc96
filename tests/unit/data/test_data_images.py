import numpy as np
import pytest
from PIL import Image

from hwbench.data.preprocess import Preprocessing, prepare, read_preprocessing
from hwbench.data.read import work
from hwbench.data.sources import open_source
from hwbench.data.store import stored_inputs
from hwbench.errors import UsageError
from hwbench.graph.importer import import_model
from hwbench.records.data import DataJob
from hwbench.records.model import ImportJob


def picture(path, colour, size=(12, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "prep.toml"
    path.write_text("crop = 8\ndivide = 255.0\nmean = [0.5, 0.0, 0.0]\nstd = [0.5, 1.0, 2.0]\n")
    return str(path)


def test_classes_are_numbered_by_the_names_of_their_folders(tmp_path, recipe):
    picture(tmp_path / "set/b/1.png", (255, 0, 0))
    picture(tmp_path / "set/a/2.png", (0, 255, 0))
    picture(tmp_path / "set/a/1.png", (0, 0, 255))
    (tmp_path / "set/a/notes.txt").write_text("no picture")
    ((arrays, labels),) = open_source(str(tmp_path / "set"), recipe)
    assert labels.tolist() == [0, 1, 0]
    # (1 - 0.5) / 0.5 = 1, (0 - 0.5) / 0.5 = -1; the second channel as it is, the third halved
    assert arrays[""][:, :, 0, 0].tolist() == [[-1.0, 0.0, 0.5], [1.0, 0.0, 0.0], [-1.0, 1.0, 0.0]]
    assert arrays[""].shape == (3, 3, 8, 8)


def test_the_first_pictures_are_even_over_the_classes(tmp_path, recipe):
    for name, count in (("a", 3), ("b", 1), ("c", 2)):
        for number in range(count):
            picture(tmp_path / f"set/{name}/{number}.png", (number, 0, 0))
    ((arrays, labels),) = open_source(str(tmp_path / "set"), recipe)
    assert labels.tolist() == [0, 1, 2, 0, 2, 0]
    red = (arrays[""][:, 0, 0, 0] * 0.5 + 0.5) * 255
    assert red.round().tolist() == [0, 0, 0, 1, 1, 2]


def test_what_is_a_class(tmp_path, recipe):
    for name in (".cache", "a", "c"):
        picture(tmp_path / f"set/{name}/1.png", "red")
    ((_, labels),) = open_source(str(tmp_path / "set"), recipe)
    assert labels.tolist() == [0, 1]
    (tmp_path / "set/b").mkdir()
    with pytest.raises(UsageError, match=r"class folder '.*b' holds no pictures"):
        list(open_source(str(tmp_path / "set"), recipe))


def test_labels_from_a_table_or_none(tmp_path, recipe):
    picture(tmp_path / "set/x.png", "red")
    picture(tmp_path / "set/y.png", "red")
    ((_, labels),) = open_source(str(tmp_path / "set"), recipe)
    assert labels is None
    (tmp_path / "set/labels.csv").write_text("file,label\ny.png,7\nx.png,3\n")
    ((_, labels),) = open_source(str(tmp_path / "set"), recipe)
    assert labels.tolist() == [3, 7]


def test_many_pictures_come_in_batches_and_are_all_there(tmp_path, recipe):
    for number in range(70):
        picture(tmp_path / f"set/{number:03}.png", (number, 0, 0))
    batches = [arrays[""] for arrays, _ in open_source(str(tmp_path / "set"), recipe)]
    assert len(batches) > 1
    red = np.concatenate(batches)[:, 0, 0, 0]
    np.testing.assert_allclose(red, (np.arange(70) / 255 - 0.5) / 0.5, rtol=1e-5)


def test_crop_is_from_the_centre_and_resize_of_the_shorter_side():
    pixels = np.zeros((6, 10, 3), np.uint8)
    pixels[2:4, 4:6] = 200
    cropped = prepare(Image.fromarray(pixels), Preprocessing(crop=2, layout="NHWC"))
    assert cropped.shape == (2, 2, 3)
    assert (cropped == 200).all()
    assert prepare(Image.fromarray(pixels), Preprocessing(resize=3)).shape == (3, 3, 5)
    assert prepare(Image.fromarray(pixels), Preprocessing(resize=(4, 7))).shape == (3, 4, 7)


def test_channels():
    one = Image.new("RGB", (1, 1), (10, 20, 30))
    assert prepare(one, Preprocessing(channels="BGR")).ravel().tolist() == [30, 20, 10]
    assert prepare(one, Preprocessing(channels="L")).shape == (1, 1, 1)
    grey_with_alpha = Image.new("LA", (1, 1), (9, 128))
    assert prepare(grey_with_alpha, Preprocessing()).ravel().tolist() == [9, 9, 9]


def test_a_function_of_the_users(tmp_path):
    picture(tmp_path / "set/x.png", (1, 2, 3), size=(2, 2))
    (tmp_path / "prep.py").write_text("def make(pixels):\n    return pixels[0, 0].astype('float32')\n")
    ((arrays, _),) = open_source(str(tmp_path / "set"), f"{tmp_path / 'prep.py'}:make")
    assert arrays[""].tolist() == [[1.0, 2.0, 3.0]]


@pytest.mark.parametrize(("dtype", "suffix"), [(np.uint16, "png"), (np.int32, "tif"), (np.float32, "tif")])
@pytest.mark.parametrize("how", ["prep.toml", "prep.py:make"])
def test_pictures_of_more_than_8_bits(tmp_path, monkeypatch, dtype, suffix, how):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prep.toml").write_text("divide = 255.0\n")
    (tmp_path / "prep.py").write_text("def make(pixels):\n    return pixels\n")
    (tmp_path / "set").mkdir()
    Image.fromarray(np.full((4, 4), 300, dtype)).save(tmp_path / f"set/x.{suffix}")
    with pytest.raises(UsageError, match=rf"x\.{suffix}.*more than 8 bits") as caught:
        list(open_source("set", how))
    assert caught.value.hint == "convert it first"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("crop = 0", "positive"),
        ("mean = [1, 2]", "3"),
        ("std = 0.0", "not be 0"),
        ("colour = 'RGB'", "colour"),
        ("resize = [", "prep.toml"),
        ("channels = 'YUV'", "YUV"),
    ],
)
def test_a_recipe_that_is_none(tmp_path, text, told):
    (tmp_path / "prep.toml").write_text(text)
    with pytest.raises(UsageError, match=told):
        read_preprocessing(str(tmp_path / "prep.toml"))


def test_refusals(tmp_path, recipe):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/x.png").write_bytes(b"no picture at all")
    picture(tmp_path / "small/x.png", "red", size=(4, 4))
    picture(tmp_path / "mixed/x.png", "red")
    picture(tmp_path / "mixed/y.png", "red")
    (tmp_path / "mixed/labels.csv").write_text("x.png,1\n")
    for folder, how, told in (
        ("empty", recipe, "no pictures"),
        ("broken", recipe, "x.png"),
        ("small", recipe, "larger than a picture"),
        ("mixed", recipe, "no label for 1 pictures"),
        ("small", None, "nothing says how"),
        ("small", "prep", "neither"),
        ("small", str(tmp_path / "absent.toml"), "absent"),
    ):
        with pytest.raises(UsageError, match=told):
            list(open_source(str(tmp_path / folder), how))
    np.savez(tmp_path / "d.npz", x=np.zeros(3))
    with pytest.raises(UsageError, match="folder of images"):
        open_source(str(tmp_path / "d.npz"), recipe)


def test_pictures_reach_the_model(tmp_path):
    for number in range(5):
        picture(tmp_path / f"set/{number}.png", (number, number, number), size=(8, 8))
    (tmp_path / "p.toml").write_text('channels = "L"\n')
    job = ImportJob(model="digits_cnn", batch_size=2, shapes={}, input_data=None, seed=0)
    model = import_model(job, tmp_path / "model").model
    (tmp_path / "data").mkdir()
    job = DataJob(data=str(tmp_path / "set"), model=model, limit=3, preprocess=str(tmp_path / "p.toml"))
    result = work(job, tmp_path / "data", lambda event: None)
    assert result.facts.samples == 3
    assert stored_inputs(tmp_path / "data")["image"][:, 0, 0, 0].tolist() == [0, 1, 2]

"""What a user may type for a model."""

from __future__ import annotations

import pytest

from hwbench.errors import ModelError, UsageError
from hwbench.graph.spec import parse_spec
from hwbench.models.zoo import ZOO


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A working folder with one file of every kind."""
    for name in (
        *("net.onnx", "net.pt2", "net.py", "weights.pt", "Big.ONNX", "two words.onnx"),
        *("net.tflite", "Net.XML", "net.hwbundle", "v1.2.HWBUNDLE"),
    ):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").write_bytes(b"")
    (tmp_path / "nets.onnx").mkdir()
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "kind", "where", "attribute", "name"),
    [
        ("net.onnx", "onnx", "net.onnx", None, "net"),
        (" net.onnx ", "onnx", "net.onnx", None, "net"),
        ("./net.onnx", "onnx", "./net.onnx", None, "net"),
        ("Big.ONNX", "onnx", "Big.ONNX", None, "Big"),
        ("two words.onnx", "onnx", "two words.onnx", None, "two words"),
        ("net.pt2", "pt2", "net.pt2", None, "net"),
        ("net.py:make", "torch", "net.py", "make", "net.make"),
        ("net.py:Nets.small", "torch", "net.py", "Nets.small", "net.Nets.small"),
        ("pkg.nets:make", "torch", "pkg.nets", "make", "pkg.nets.make"),
        ("resnet50", "zoo", "resnet50", None, "resnet50"),
        ("zoo:resnet50", "zoo", "resnet50", None, "resnet50"),
        ("net.tflite", "engine", "net.tflite", None, "net"),
        ("Net.XML", "engine", "Net.XML", None, "Net"),
        ("net.hwbundle", "bundle", "net.hwbundle", None, "net"),
        ("v1.2.HWBUNDLE", "bundle", "v1.2.HWBUNDLE", None, "v1.2"),
        ("bundle", "bundle", "bundle", None, "bundle"),
        ("./bundle/", "bundle", "./bundle/", None, "bundle"),
    ],
)
def test_every_form_is_understood(files, text, kind, where, attribute, name):
    spec = parse_spec(text)

    assert (spec.kind, spec.where, spec.attribute, spec.name) == (kind, where, attribute, name)
    assert spec.text == text.strip()


def test_an_absolute_path_and_a_colon_in_a_folder_name(files):
    odd = files / "v1:2"
    odd.mkdir()
    (odd / "net.onnx").write_bytes(b"")
    (odd / "net.py").write_bytes(b"")

    assert parse_spec(str(odd / "net.onnx")).kind == "onnx"
    made = parse_spec(f"{odd / 'net.py'}:make")
    assert (made.where, made.attribute) == (str(odd / "net.py"), "make")


def test_every_zoo_model_can_be_named():
    assert {parse_spec(name).where for name in ZOO} == {parse_spec(f"zoo:{name}").where for name in ZOO} == set(ZOO)


@pytest.mark.parametrize("text", ["nett.onnx", "nett.pt2", "nett.py:make", "nett.tflite", "nett.hwbundle"])
def test_a_missing_file_names_those_that_are_near(files, text):
    with pytest.raises(ModelError, match="there is no file 'nett") as caught:
        parse_spec(text)

    assert "did you mean " in str(caught.value.hint)
    assert text.split(":", maxsplit=1)[0].replace("tt", "t") in str(caught.value.hint)


def test_only_files_of_the_same_kind_are_near(files):
    for name in ("nosuch2.onnx", "nosuch.txt", "nosuch.onnx.data", "NoSuch3.ONNX"):
        (files / name).write_bytes(b"")
    with pytest.raises(ModelError) as caught:
        parse_spec("nosuch.onnx")

    hint = str(caught.value.hint)
    assert "nosuch2.onnx" in hint
    assert "NoSuch3.ONNX" in hint
    assert "txt" not in hint
    assert "data" not in hint


@pytest.mark.parametrize("text", ["mynetwork", "mynetwork1.onx"])
def test_a_name_without_its_ending_is_near_a_model_file(files, text):
    (files / "mynetwork1.onnx").write_bytes(b"")
    (files / "mynetwork1.log").write_bytes(b"")
    with pytest.raises(UsageError, match="is not a model") as caught:
        parse_spec(text)

    assert str(caught.value.hint).startswith("did you mean mynetwork1.onnx")


def test_a_missing_file_in_a_missing_folder_says_where_it_looked(files):
    with pytest.raises(ModelError, match=r"there is no file 'nowhere/net.onnx'") as caught:
        parse_spec("nowhere/net.onnx")

    assert str(files / "nowhere") in str(caught.value.hint)


@pytest.mark.parametrize("text", ["nets.onnx", "folder"])
def test_a_folder_is_no_model(files, text):
    with pytest.raises((ModelError, UsageError), match=f"'{text}' is a folder"):
        parse_spec(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("weights.pt", "weights without the network"),
        ("weights.pth", "weights without the network"),
        ("weights.safetensors", "weights without the network"),
    ],
)
def test_weights_and_engines_of_no_engine_here_are_refused_with_the_reason(files, text, why):
    with pytest.raises(UsageError, match=why) as caught:
        parse_spec(text)

    assert "net.py:callable" in str(caught.value.hint)


def test_a_python_file_alone_asks_for_the_name_in_it(files):
    with pytest.raises(UsageError) as caught:
        parse_spec("net.py")

    assert "net.py:callable" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["resnet5O", "zoo:resnet5O", "zoo:resnet_50"])
def test_a_misspelt_zoo_name_is_corrected(text):
    with pytest.raises(UsageError, match="is not a model") as caught:
        parse_spec(text)

    assert "did you mean resnet50" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["", "   ", "zoo:", ":make", "net.py:", "net.py:1st", "zoo:no:such", "\0", "a" * 300])
def test_nonsense_is_refused_and_the_forms_are_listed(files, text):
    with pytest.raises((UsageError, ModelError)):
        parse_spec(text)


@pytest.mark.parametrize("text", ["\0.onnx", "a" * 300 + ".onnx", "\0.py:make"])
def test_an_impossible_path_is_a_missing_file(files, text):
    with pytest.raises(ModelError):
        parse_spec(text)

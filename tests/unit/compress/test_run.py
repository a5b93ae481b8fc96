"""One step carried out: which layers it gets, what is refused, what is kept."""

import numpy as np
import onnx_ir as ir
import pytest
from compress_subjects import imported, subject_of
from made_methods import registered

from hwbench.compress.order import planned
from hwbench.compress.run import apply
from hwbench.errors import ModelError, UsageError
from hwbench.records.compression import Step


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return imported("resnet8", tmp_path_factory.mktemp("resnet8"), batch=2)


@pytest.fixture
def subject(network, tmp_path, monkeypatch):
    registered(monkeypatch)
    return subject_of(network.clone(), tmp_path)


def carried_out(subject, *steps):
    applied = ()
    for step in planned([Step(**step) for step in steps]):
        applied = (*applied, apply(step, subject, applied))
    return applied


def weights(model):
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


def test_layers_are_chosen_by_their_whole_names(subject):
    before = weights(subject.model)
    names = [name for name, layer in subject.layers().items() if layer.spatial]
    (applied,) = carried_out(subject, {"method": "width", "layers": names[1], "settings": {"amount": 2.0}})
    assert [change.layer for change in applied.changes] == [names[1]]
    changed = {name for name, array in weights(subject.model).items() if not np.array_equal(array, before[name])}
    assert changed == {subject.layers()[names[1]].node.inputs[1].name}


def test_what_is_illegal_is_left_alone_with_its_reason(subject):
    (applied,) = carried_out(subject, {"method": "width", "settings": {"amount": 2.0}})
    assert [each.reason.code for each in applied.left_alone] == ["not_a_convolution"]
    assert applied.settings == {"amount": 2.0, "places": ()}
    assert applied.figures == {"layers": len(applied.changes)}
    assert applied.notes == ("as was asked",)
    assert applied.took_s > 0


def test_nothing_matches(subject):
    with pytest.raises(UsageError, match=r"width: no layer matches 'conv99\.\*'") as error:
        carried_out(subject, {"method": "width", "layers": "conv99.*", "settings": {"amount": 0.5}})
    assert next(iter(subject.layers())) in error.value.hint


def test_nothing_that_matches_may_be_changed(subject):
    dense = next(name for name, layer in subject.layers().items() if not layer.spatial)
    with pytest.raises(UsageError, match="none of the 1 layers") as error:
        carried_out(subject, {"method": "width", "layers": dense, "settings": {"amount": 0.5}})
    assert error.value.hint == f"{dense}: it is no convolution"


def test_a_broken_expression(subject):
    with pytest.raises(UsageError, match=r"'\(' is no regular expression"):
        carried_out(subject, {"method": "width", "layers": "(", "settings": {"amount": 0.5}})


def test_a_method_that_breaks_the_weights_is_found_out(subject):
    with pytest.raises(ModelError, match="width left NaN or infinity in"):
        carried_out(subject, {"method": "width", "settings": {"amount": np.inf}})


def test_layers_on_a_grid_are_left_there(subject):
    first, second = [name for name, layer in subject.layers().items() if layer.spatial][:2]
    share = {"method": "share", "layers": first, "settings": {"amount": 2.0}}
    quantise = {"method": "quantise", "layers": f"{first}|{second}", "settings": {"amount": 2.0}}
    _, applied = carried_out(subject, share, quantise)
    assert [change.layer for change in applied.changes] == [second]
    assert [(each.layer, each.reason.code) for each in applied.left_alone] == [(first, "on_a_grid")]
    with pytest.raises(UsageError, match="can be changed"):
        carried_out(subject, share, {**quantise, "layers": first})


def test_books_of_constants_that_are_gone_are_closed(subject):
    name = next(iter(subject.layers().values())).node.inputs[1].name
    subject.held_zeros |= {name, "gone"}
    subject.bits |= {name: 4.0, "gone": 4.0}
    carried_out(subject, {"method": "width", "settings": {"amount": 2.0}})
    assert (subject.held_zeros, subject.bits) == ({name}, {name: 4.0})


def test_the_original_is_not_touched(subject):
    before = ir.to_proto(subject.original).SerializeToString(deterministic=True)
    carried_out(subject, {"method": "width", "settings": {"amount": 2.0}})
    assert ir.to_proto(subject.original).SerializeToString(deterministic=True) == before

"""Which methods go together: the stated order, what is refused and why, and where repairs come in."""

import itertools

import pytest
from made_methods import KINDS, registered

from hwbench.compress.order import STAGES, planned, with_repairs
from hwbench.errors import UsageError
from hwbench.records.compression import Step


@pytest.fixture(autouse=True)
def _methods(monkeypatch):
    registered(monkeypatch)


def steps(*methods):
    return [Step(method=method, settings={"amount": 0.5} if method in KINDS else {}) for method in methods]


def test_every_pair_of_stages_is_allowed_one_way():
    for one, two in itertools.combinations(STAGES, 2):
        planned(steps(one, two))
        with pytest.raises(UsageError, match=f"{one} cannot come after {two}: .*{two}"):
            planned(steps(two, one))


def test_a_stage_may_follow_itself():
    for stage in STAGES:
        assert len(planned(steps(stage, stage))) == 2


@pytest.mark.parametrize("method", ["train", "repair"])
def test_training_and_repair_come_before_the_grid(method):
    for stage in STAGES:
        if stage in {"share", "quantise"}:
            with pytest.raises(UsageError, match=f"{method} cannot come after {stage}.*grid"):
                planned(steps(stage, method))
        else:
            planned(steps(stage, method))
        planned(steps(method, stage))


def test_training_between_does_not_loosen_the_order():
    with pytest.raises(UsageError, match="width cannot come after sparsity"):
        planned(steps("sparsity", "train", "width"))


def test_the_hint_tells_the_order():
    with pytest.raises(UsageError) as error:
        planned(steps("quantise", "simplify"))
    assert " -> ".join(STAGES) in error.value.hint


def test_unknown_methods_and_settings():
    with pytest.raises(UsageError, match="no compressor is called 'prunes'"):
        planned([Step(method="prunes")])
    with pytest.raises(UsageError, match=r"width: .*unknown field.*amonut") as error:
        planned([Step(method="width", settings={"amonut": 0.5})])
    assert "amount" in error.value.hint
    with pytest.raises(UsageError, match=r"width: .*missing required field `amount`"):
        planned([Step(method="width")])
    with pytest.raises(UsageError, match=r"width: Expected `float`"):
        planned([Step(method="width", settings={"amount": "half"})])


def test_text_is_read_as_numbers():
    assert planned([Step(method="width", settings={"amount": "0.25"})])[0].settings.amount == 0.25


def test_a_list_may_be_written_with_commas():
    (found,) = planned([Step(method="width", settings={"amount": 1, "places": "a,b"})])
    assert found.settings.places == ("a", "b")


def test_a_repair_follows_each_cut():
    found = with_repairs(steps("simplify", "depth", "width", "sparsity", "quantise"), "default")
    assert [step.method for step in found] == [
        "simplify", "depth", "repair", "width", "repair", "sparsity", "repair", "quantise",
    ]  # fmt: skip


def test_a_repair_of_the_user_is_not_doubled():
    given = steps("width", "repair", "train")
    assert with_repairs(given, "default") == tuple(given)


def test_repairs_are_named_or_left_out():
    assert with_repairs(steps("width"), "bias,affine")[1].settings == {"which": "bias,affine"}
    assert with_repairs(steps("width"), "none") == tuple(steps("width"))

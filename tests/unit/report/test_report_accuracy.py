"""Speed of a saved engine is claimed only with its accuracy, and only with that of the same engine."""

import fixtures_results
import msgspec
import pytest

from hwbench.records.base import Missing
from hwbench.records.measurement import NOT_VERIFIED, Accuracy
from hwbench.report.accuracy import with_accuracy
from hwbench.report.ranking import rank

HASH, OTHER = "a" * 64, "b" * 64


def accuracy(digest=HASH):
    return Accuracy(
        artefact_sha256=digest, data_sha256="c" * 64, metric="accuracy", value=0.9, low=0.88, high=0.92, n=1000,
        certificate="CERTIFIED",
    )  # fmt: skip


@pytest.fixture
def result():
    """A result whose fastest measurement is of a saved engine."""
    found = fixtures_results.full_result()
    first = rank(found.measurements, "latency").first
    saved = msgspec.structs.replace(found.measurements[first], artefact_sha256=HASH, accuracy=NOT_VERIFIED)
    return msgspec.structs.replace(
        found, measurements=tuple(saved if n == first else m for n, m in enumerate(found.measurements))
    )


def saved(result):
    return next(n for n, m in enumerate(result.measurements) if m.artefact_sha256 == HASH)


def given(result, found):
    measurements = list(result.measurements)
    measurements[saved(result)] = msgspec.structs.replace(measurements[saved(result)], accuracy=found)
    return msgspec.structs.replace(result, measurements=tuple(measurements))


def test_no_claim_without_accuracy(result):
    ranking = rank(result.measurements, "latency")
    assert saved(result) not in ranking.marks
    assert ranking.first != saved(result)
    assert "No speed is claimed" in ranking.sentence


def test_a_claim_with_accuracy_says_it(result):
    ranking = rank(given(result, accuracy()).measurements, "latency")
    assert ranking.first == saved(result)
    assert "accuracy: 0.9 (0.88 to 0.92, n = 1000, CERTIFIED)" in ranking.sentence


def test_the_accuracy_of_another_engine_is_none(result):
    ranking = rank(given(result, accuracy(OTHER)).measurements, "latency")
    assert "No speed is claimed" in ranking.sentence


def test_waived(result):
    (waived,) = with_accuracy([result], [], waived=True)
    ranking = rank(waived.measurements, "latency")
    assert ranking.first == saved(result)
    assert "not asked for" in ranking.sentence
    assert with_accuracy([result], [], waived=False) == [result]
    (known,) = with_accuracy([given(result, accuracy())], [], waived=True)
    assert known.measurements[saved(result)].accuracy == accuracy()  # what is known is not forgotten


def test_alone_and_unknown(result):
    alone = msgspec.structs.replace(result, measurements=(result.measurements[saved(result)],))
    ranking = rank(alone.measurements, "latency")
    assert ranking.first is None
    assert ranking.sentence.startswith("No speed is claimed")


def test_engines_that_are_not_saved_need_none():
    found = fixtures_results.full_result()
    assert all(isinstance(m.artefact_sha256, Missing) for m in found.measurements)
    assert "No speed is claimed" not in rank(found.measurements, "latency").sentence

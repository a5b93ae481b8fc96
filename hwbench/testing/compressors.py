"""The contract of a compression method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from hwbench.compress.base import Array, Compressor, Settings, Subject
from hwbench.compress.order import ANYWHERE, STAGES
from hwbench.data.samples import Samples
from hwbench.graph.onnx_file import infer_shapes
from hwbench.records.base import Missing
from hwbench.testing.basics import assert_explained


class CompressorContract:
    """What every compression method must do, on a network that it can be used on.

    Override ``method``, ``settings`` and ``network``; ``samples`` where it learns from data. ``keeps_outputs``: it
    changes nothing that comes out, to so much of the largest output; None where it may.
    """

    keeps_outputs: float | None = None

    @pytest.fixture
    def method(self) -> Compressor[Any]:
        """The method under test."""
        raise NotImplementedError("override the fixture 'method'")

    @pytest.fixture
    def settings(self, method: Compressor[Any]) -> Settings:
        """Settings to use it with."""
        return method.settings_type()

    @pytest.fixture
    def network(self) -> ir.Model:
        """A network with something for the method to do, of fixed shapes."""
        raise NotImplementedError("override the fixture 'network'")

    @pytest.fixture
    def samples(self, network: ir.Model) -> Samples | None:  # noqa: ARG002 - whoever overrides it may need it
        """Data to learn from."""
        return None

    @pytest.fixture
    def subject(self, network: ir.Model, samples: Samples | None, tmp_path: Path) -> Subject:
        """The network on the bench."""
        return _subject(network, samples, tmp_path)

    def test_words(self, method: Compressor[Any]) -> None:
        """A stage that there is, and one line of text."""
        assert method.stage in {*STAGES, *ANYWHERE}
        assert method.summary.strip()
        assert "\n" not in method.summary
        assert issubclass(method.settings_type, Settings)

    def test_looking_changes_nothing(self, method: Compressor[Any], settings: Settings, subject: Subject) -> None:
        """``legal`` gives a reason in words for what must not be touched, and touches nothing."""
        before = _bytes(subject.model)
        found = method.legal(subject, settings)
        assert any(reason is None for reason in found.values()), f"there is nothing to do: {found}"
        for reason in found.values():
            if isinstance(reason, Missing):
                assert_explained(reason)
        assert _bytes(subject.model) == before

    def test_the_result_runs(self, method: Compressor[Any], settings: Settings, subject: Subject) -> None:
        """The same inputs and outputs, no NaN, and ONNX Runtime and torch agree on what it computes."""
        inputs = _inputs(subject)
        before = _run(subject.model, inputs)
        outcome = method.apply(subject, _legal(method, settings, subject), settings)
        after = _run(subject.model, inputs)
        assert [value.name for value in subject.model.graph.outputs] == [
            value.name for value in subject.original.graph.outputs
        ]
        assert outcome.changes or outcome.left_alone or outcome.notes
        viewed = [output.detach().numpy() for output in subject.view()(*subject.tensors(inputs))]
        for one, other, was in zip(after, viewed, before, strict=True):
            assert np.isfinite(one).all()
            scale = float(np.abs(one).max()) or 1.0
            np.testing.assert_allclose(one, other, atol=1e-4 * scale)
            if self.keeps_outputs is not None:
                np.testing.assert_allclose(one, was, atol=self.keeps_outputs * (float(np.abs(was).max()) or 1.0))

    def test_the_original_stays(self, method: Compressor[Any], settings: Settings, subject: Subject) -> None:
        """What the network is held against is not changed, unless it has a new task."""
        before = _bytes(subject.original)
        method.apply(subject, _legal(method, settings, subject), settings)
        assert subject.transferred or _bytes(subject.original) == before

    def test_changes_are_told(self, method: Compressor[Any], settings: Settings, subject: Subject) -> None:
        """Of every weight that is another now, a layer that uses it, or what it has become, is among the changes."""
        outcome = method.apply(subject, _legal(method, settings, subject), settings)
        for change in outcome.changes:
            assert change.what.strip()
            for where in change.removed:
                tensor, _, axis = where.rpartition("/")
                assert tensor
                assert axis.isdigit()

    def test_a_seed_settles_it(
        self, method: Compressor[Any], settings: Settings, network: ir.Model, samples: Samples | None, tmp_path: Path
    ) -> None:
        """Twice the same request gives the same network."""
        made = []
        for folder in ("one", "two"):
            (tmp_path / folder).mkdir()
            subject = _subject(network, samples, tmp_path / folder)
            method.apply(subject, _legal(method, settings, subject), settings)
            made.append(_run(subject.model, _inputs(subject)))
        for one, other in zip(*made, strict=True):
            np.testing.assert_array_equal(one, other)


def _subject(network: ir.Model, samples: Samples | None, folder: Path) -> Subject:
    model = infer_shapes(network.clone())
    shape = next(value for value in model.graph.inputs if not value.is_initializer()).shape
    assert shape is not None
    return Subject(
        model=model,
        original=model.clone(),
        batch=int(shape.numpy()[0]),
        samples=samples,
        folder=folder,
        report=lambda what, fraction: None,  # noqa: ARG005 - nobody listens
        seed=1,
    )


def _legal(method: Compressor[Any], settings: Settings, subject: Subject) -> list[str]:
    return [name for name, reason in method.legal(subject, settings).items() if reason is None]


def _bytes(model: ir.Model) -> bytes:
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data


def _inputs(subject: Subject) -> dict[str, Array]:
    if subject.samples is not None:
        return next(subject.samples.in_order())[0]
    rng = np.random.default_rng(0)
    given = [value for value in subject.model.graph.inputs if not value.is_initializer()]
    return {
        value.name or "": rng.normal(size=tuple(value.shape.numpy())).astype(np.float32)  # type: ignore[union-attr]
        for value in given
    }


def _run(model: ir.Model, inputs: dict[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, ["CPUExecutionProvider"])
    outputs: list[Array] = session.run(None, inputs)
    return outputs

"""Compression from Python: a torch module in, a smaller one out, the one given left as it is."""

import numpy as np
import pytest
import torch
from torch import nn

from hwbench.compress.api import compress
from hwbench.errors import ModelError, UsageError
from hwbench.records.compression import Step

HALF = [Step(method="width", settings={"amount": 0.5})]


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))


EXAMPLE = {"input": torch.zeros(4, 3, 6, 6)}
IMAGES = {"input": np.random.default_rng(0).normal(size=(16, 3, 6, 6)).astype(np.float32)}


def test_a_module_becomes_a_smaller_module(net, tmp_path):
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    found = compress(net, HALF, example=EXAMPLE)
    smaller = found.torch()
    x = torch.randn(4, 3, 6, 6)
    (output,) = smaller(x)
    assert output.shape == (4, 5)
    assert found.before.parameters == sum(tensor.numel() for tensor in before.values())
    assert (
        found.after.parameters == sum(tensor.numel() for tensor in smaller.parameters()) < 0.6 * found.before.parameters
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    found.save(tmp_path / "smaller.onnx")
    onnxruntime = pytest.importorskip("onnxruntime", reason="runs what was saved")
    session = onnxruntime.InferenceSession(tmp_path / "smaller.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"input": x.numpy()})[0], output.detach().numpy(), atol=1e-5)


def test_samples_bring_repairs(net):
    found = compress(net, HALF, example=EXAMPLE, inputs=IMAGES)
    assert [applied.step.method for applied in found.applied] == ["width", "repair"]
    assert len(compress(net, HALF, example=EXAMPLE, inputs=IMAGES, repair="none").applied) == 1


def test_a_graph_is_left_as_it_is(net):
    graph = compress(net, [Step(method="prune", settings={"amount": 0.1})], example=EXAMPLE).model
    weights = {name: value.const_value.numpy().copy() for name, value in graph.graph.initializers.items()}
    again = compress(graph, HALF)
    assert again.after.parameters < again.before.parameters
    for name, value in graph.graph.initializers.items():
        np.testing.assert_array_equal(value.const_value.numpy(), weights[name])


def test_what_is_refused(net):
    with pytest.raises(UsageError, match="needs an example"):
        compress(net, HALF)
    with pytest.raises(UsageError, match="needs samples"):
        compress(net, [Step(method="finetune")], example=EXAMPLE)
    with pytest.raises(UsageError, match="would learn from its own outputs"):
        compress(net, [Step(method="finetune")], example=EXAMPLE, inputs=IMAGES)

    class Branches(nn.Module):
        def forward(self, input):
            return input if input.sum() > 0 else -input

    with pytest.raises(ModelError, match="torch cannot export"):
        compress(Branches(), HALF, example=EXAMPLE)

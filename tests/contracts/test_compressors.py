"""Every registered compression method keeps the contract, on a small network with residual blocks and BatchNorm."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from hwbench import plugins
from hwbench.compress.order import settings_of
from hwbench.data.samples import Samples
from hwbench.graph.onnx_file import infer_shapes
from hwbench.graph.torch_export import export
from hwbench.graph.torch_source import TorchModel
from hwbench.records.compression import Step
from hwbench.report.methods import setting_rows
from hwbench.testing import CompressorContract

BATCH = 8
SHORT = {"epochs": 1, "learning_rate": 1e-3}
SETTINGS = {
    "depth": {"count": 1},
    "finetune": SHORT,
    "gates": {"epochs": 2, "penalty": 1.0},
    "gradual": {"amount": 0.5, **SHORT},
    "low-rank": {"amount": 0.3},
    "merge": {},
    "prune": {"amount": 0.5, "criterion": "wanda"},
    "quantize": {"weight_bits": 4},
    "repair": {},
    "replace": {"count": 1},
    "share": {"bits": 4},
    "simplify": {},
    "soft-prune": {"amount": 0.25, **SHORT},
    "sparsegpt": {"amount": 0.5},
    "sparsify": SHORT,
    "substitute": {"by": "hard-swish,separable"},
    "transfer": {},
    "width": {"amount": 0.25},
}
EXACT = {"simplify": 1e-5, "merge": 1e-4}


class Block(nn.Module):
    """x + bn(conv(relu(bn(conv(x)))))."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class Net(nn.Module):
    """A stem of two convolutions without anything between them, two residual blocks, a classifier."""

    def __init__(self):
        super().__init__()
        self.expand = nn.Conv2d(3, 16, 1)
        self.stem = nn.Conv2d(16, 16, 3, padding=0, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(Block(16), Block(16))
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(self.expand(x))))
        return self.fc(nn.functional.silu(self.blocks(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def exported():
    torch.manual_seed(0)
    net = Net().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    example = {"x": torch.zeros(BATCH, 3, 10, 10)}
    graph = export(TorchModel(module=net, example=example), example)
    assert isinstance(graph, ir.Model), graph
    return infer_shapes(graph)


@pytest.mark.parametrize("name", list(plugins.available("compressors")))
class TestEveryMethod(CompressorContract):
    @pytest.fixture
    def method(self, name):
        assert name in SETTINGS, f"say with which settings '{name}' is tested"
        self.keeps_outputs = EXACT.get(name)
        return plugins.load("compressors", name)

    @pytest.fixture
    def settings(self, name, method):
        return settings_of(Step(method=name, settings=SETTINGS[name]), method)

    @pytest.fixture
    def network(self, exported):
        return exported

    @pytest.fixture
    def samples(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(4 * BATCH, 3, 10, 10)).astype(np.float32)
        return Samples(inputs={"x": x}, labels=rng.integers(0, 5, len(x)), batch=BATCH)


@pytest.mark.parametrize("name", list(plugins.available("compressors")))
def test_every_setting_says_what_it_does(name):
    rows = setting_rows(plugins.load("compressors", name).settings_type)
    assert [row[0] for row in rows if not row[3]] == []


def test_the_names_are_the_entry_points():
    assert set(SETTINGS) == set(plugins.available("compressors"))

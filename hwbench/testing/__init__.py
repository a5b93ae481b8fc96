"""For tests of hwbench and of its plugins: a clock that obeys, and the contract that every plugin must keep.

A contract is a class of tests. A plugin's tests subclass it, say what is to be tested, and get its tests::

    class TestMyMeter(MeterContract):
        @pytest.fixture
        def meter(self):
            return MyMeter()


    class TestMyEngine(EngineContract):
        def make(self):
            return MyEngine()
"""

from __future__ import annotations

from hwbench.testing.basics import FakeClock, assert_explained, example_cpu
from hwbench.testing.compressors import CompressorContract
from hwbench.testing.engines import EngineContract
from hwbench.testing.examples import Example, onnx_examples, torch_examples
from hwbench.testing.finders import DeviceFinderContract
from hwbench.testing.meters import MeterContract, assert_reading, let, opened

__all__ = [
    "CompressorContract",
    "DeviceFinderContract",
    "EngineContract",
    "Example",
    "FakeClock",
    "MeterContract",
    "assert_explained",
    "assert_reading",
    "example_cpu",
    "let",
    "onnx_examples",
    "opened",
    "torch_examples",
]

"""Every name that the runner uses of TensorRT, against the real bindings, which import without a GPU."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from hwbench.engines.tensorrt_buffers import ELEMENTS

USED = {
    "ICudaEngine": (
        "num_io_tensors", "num_optimization_profiles", "get_tensor_name", "get_tensor_dtype", "get_tensor_format",
        "get_tensor_mode", "get_tensor_shape", "get_tensor_location", "get_tensor_profile_shape",
        "create_execution_context",
    ),
    "IExecutionContext": (
        "active_optimization_profile", "set_optimization_profile_async", "set_input_shape", "get_tensor_shape",
        "set_tensor_address", "execute_async_v3",
    ),
    "TensorFormat": ("LINEAR",),
    "TensorIOMode": ("INPUT",),
    "TensorLocation": ("HOST",),
    "DataType": tuple(ELEMENTS),
}  # fmt: skip


@pytest.mark.parametrize("module", ["tensorrt_rtx", "tensorrt"])
def test_names(module):
    try:
        trt = importlib.import_module(module)
    except ImportError:
        pytest.skip(f"{module} is not installed")
    absent = [f"{owner}.{name}" for owner, names in USED.items() for name in set(names) - set(dir(getattr(trt, owner)))]
    assert not absent


def test_numpy_and_tensorrt_mean_the_same_types():
    trt = pytest.importorskip("tensorrt_rtx")
    of_numpy = {name: text for name, text in ELEMENTS.items() if hasattr(np, text) or text == "bool"}
    assert set(ELEMENTS) - set(of_numpy) == {"BF16", "FP8"}
    for name, text in of_numpy.items():
        assert np.dtype(trt.nptype(getattr(trt.DataType, name))) == np.dtype(text)

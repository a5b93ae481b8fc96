"""What execution contexts are made with."""

import enum
from types import SimpleNamespace

import pytest
from fake_tensorrt import fake_tensorrt

from hwbench.engines.tensorrt_api import adapt
from hwbench.engines.tensorrt_engine import contexts_of


@pytest.mark.parametrize(("newer", "told"), [
    (True, {"runtime_cache": "none", "dynamic_shapes_kernel_specialization_strategy": "EAGER",
            "cuda_graph_strategy": "DISABLED"}),
    (False, {"runtime_cache": "none", "dynamic_shapes_kernel_specialization_strategy": "EAGER"}),
])  # fmt: skip
def test_rtx_is_told_how_to_run(newer, told):
    """It compiles before the inference that needs it, and leaves CUDA graphs to the runner."""
    strategies = {
        "DynamicShapesKernelSpecializationStrategy": enum.Enum("Kernels", ("LAZY", "EAGER", "NONE")),
        "CudaGraphStrategy": enum.Enum("Graphs", ("DISABLED", "WHOLE_GRAPH_CAPTURE")),
    }
    config = SimpleNamespace(dynamic_shapes_kernel_specialization_strategy="as it comes")
    if newer:
        config.cuda_graph_strategy = "as it comes"
    made = []
    engine = SimpleNamespace(
        create_runtime_config=lambda: config, create_execution_context=lambda *asked: made.append(asked)
    )
    trt = fake_tensorrt("11.4.0.106")
    trt.__dict__.update(strategies)
    context, settings = contexts_of(adapt(trt, "tensorrt-rtx"), engine)
    context()
    assert settings == told
    assert made == [(config,)]
    assert config.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"
    context, settings = contexts_of(adapt(trt, "tensorrt"), engine)
    context()
    assert (settings, made[1:]) == ({}, [()])

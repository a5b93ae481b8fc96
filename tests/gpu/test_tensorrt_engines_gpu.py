"""TensorRT on a GPU that is there: the contract of engines, and parity with the CPU in every precision it has."""

import pytest
from tensorrt_on_gpu import ContractOnGpu, ParityOnGpu

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),  # torch's
]


class TestTensorRtContractOnGpu(ContractOnGpu):
    __test__ = True
    name = "tensorrt"


class TestTensorRtParityOnGpu(ParityOnGpu):
    __test__ = True
    name = "tensorrt"

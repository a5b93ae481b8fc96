"""ONNX's own test cases of its operators, run through the torch view.

The cases feed everything as an input. What the view needs to know when it is built (shapes, axes, bounds) is made an
initialiser first, as it is in models.
"""

import re
import warnings
from collections import defaultdict

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch view is made of torch")

import onnx  # noqa: E402
import onnx_ir as ir  # noqa: E402
from onnx.backend.test.loader import load_model_tests  # noqa: E402

from hwbench.errors import Unsupported  # noqa: E402
from hwbench.torch_view.build import to_torch  # noqa: E402
from hwbench.torch_view.rules import RULES  # noqa: E402
from hwbench.torch_view.tables import input_names  # noqa: E402

REFUSED = {  # cases that must end in Unsupported, and why
    r"uint(16|32|64)$|_ui64_|bitwise_not_3d$": "torch has no arithmetic in wide unsigned",
    r"FLOAT8|e4m3fn|e5m2|e8m0": "torch has no arithmetic in 8-bit floats",
    r"U?INT[24]|u?int[24]$|FLOAT4|float4": "torch has no 4-bit and 2-bit types",
    r"_string": "no text in torch",
    r"identity_(sequence|opt)": "a sequence is no tensor",
    r"batchnorm_.*training_mode|test_training_dropout": "a network at inference does not measure or drop",
    r"linear_blocked": "quantisation in blocks",
}
NO_CASE = {"GlobalLpPool", "Scatter", "Upsample"}
TOLERANCE = {"float16": 2e-3, "bfloat16": 2e-2}


@pytest.fixture(scope="module")
def cases():
    """ONNX's cases of operators that have a rule, by the operator of the last node."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, while ONNX computes what is expected
        loaded = load_model_tests(kind="node")
    by_operator = defaultdict(list)
    for case in loaded:
        nodes = list(case.model.graph.node)
        spelled_out = case.name.endswith("_expanded")  # the same again, in terms of other operators
        if nodes and not spelled_out and all(node.op_type in RULES and not node.domain for node in nodes):
            by_operator[nodes[-1].op_type].append(case)
    return by_operator


def refusal(name):
    return next((why for pattern, why in REFUSED.items() if re.search(pattern, name)), None)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own: reductions of nothing
@pytest.mark.parametrize("operator", sorted(set(RULES) - NO_CASE))
def test_the_cases_of_onnx(cases, operator):
    assert cases[operator], "no case is left to check this rule by"
    wrong = {}
    for case in cases[operator]:
        why = refusal(case.name)
        try:
            check(case)
            if why is not None:
                wrong[case.name] = f"runs, though {why}"
        except Unsupported as error:
            if why is None:
                wrong[case.name] = str(error)
        except Exception as error:  # noqa: BLE001 - every case is to be seen
            wrong[case.name] = f"{type(error).__name__}: {str(error)[:300]}"
    assert not wrong


def check(case):
    for inputs, outputs in case.data_sets:
        view, fed = view_of(case, inputs)
        with torch.no_grad():
            got = view(*[to_tensor(fed[name]) for name in input_names(view)])
        for result, expected in zip(got, outputs, strict=False):
            compare(result.detach(), to_array(expected), case)


def view_of(case, inputs):
    """Build the view with everything an input, and where that does not go with the small inputs as constants."""
    model = ir.from_proto(case.model)
    fed = {value.name: to_array(given) for value, given in zip(model.graph.inputs, inputs, strict=False)}
    try:
        return to_torch(model), fed
    except Unsupported as error:
        if "must be a constant" not in str(error):
            raise
    for value in model.graph.inputs:
        array = fed[value.name]
        if array.dtype.kind in "iub" or array.size <= 8:
            value.const_value = ir.tensor(array, name=value.name)
            model.graph.initializers[value.name] = value
    return to_torch(model), fed


def to_array(given):
    return ir.from_proto(given).numpy() if isinstance(given, onnx.TensorProto) else np.asarray(given)


def to_tensor(array):
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def compare(result, expected, case):
    kind = expected.dtype.name
    if kind == "bfloat16":
        assert result.dtype == torch.bfloat16
        result, expected = result.float(), expected.astype(np.float32)
    found = result.numpy()
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    tolerance = max(case.rtol, TOLERANCE.get(kind, 0))
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=max(case.atol, 1e-6))


def test_every_refusal_is_needed(cases):
    names = [case.name for group in cases.values() for case in group]
    assert all(any(re.search(pattern, name) for name in names) for pattern in REFUSED)

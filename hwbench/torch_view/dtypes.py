"""Element types and tensors, from ONNX to torch and back."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch

_TORCH = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.BOOL: torch.bool,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT8: torch.uint8,
}


def torch_dtype(dtype: ir.DataType) -> torch.dtype | None:
    """Return torch's name of an element type, or None for one that torch does not compute in."""
    return _TORCH.get(dtype)


def to_torch_tensor(tensor: ir.TensorProtocol) -> torch.Tensor | None:
    """Return a copy of an ONNX tensor, or None where torch does not compute in its element type."""
    if torch_dtype(tensor.dtype) is None:
        return None
    array = np.array(tensor.numpy(), copy=True, order="C")
    if tensor.dtype == ir.DataType.BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_onnx_tensor(tensor: torch.Tensor, like: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return a copy of a tensor with the name and element type of the initialiser ``like``."""
    dtype = torch_dtype(like.dtype)
    assert dtype is not None
    values = tensor.detach().to(device="cpu", dtype=dtype).contiguous()
    if dtype == torch.bfloat16:
        return ir.tensor(values.view(torch.int16).numpy().view(like.numpy().dtype).copy(), name=like.name)
    return ir.tensor(values.numpy().copy(), name=like.name)

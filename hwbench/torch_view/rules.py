"""Every rule there is."""

from __future__ import annotations

from hwbench.torch_view import (
    ops_convolution,
    ops_elementwise,
    ops_index,
    ops_matrix,
    ops_normalise,
    ops_pool,
    ops_quantize,
    ops_recurrent,
    ops_reduce,
    ops_resize,
    ops_shape,
)
from hwbench.torch_view.site import Rule

_MODULES = (
    ops_convolution,
    ops_elementwise,
    ops_index,
    ops_matrix,
    ops_normalise,
    ops_pool,
    ops_quantize,
    ops_recurrent,
    ops_reduce,
    ops_resize,
    ops_shape,
)
RULES: dict[str, Rule] = {operator: rule for module in _MODULES for operator, rule in module.RULES.items()}
STATISTICS = {"BatchNormalization": (3, 4)}  # inputs that training measures rather than learns

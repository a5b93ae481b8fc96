"""Rules of matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from hwbench.torch_view.site import Function, Rules, Site

RULES = Rules()
Tensor = torch.Tensor

RULES.plain({"MatMul": torch.matmul, "Det": torch.det})


@RULES.on("Gemm")
def _gemm(site: Site) -> Function:
    alpha, beta = site.number("alpha", 1.0), site.number("beta", 1.0)
    turn_a, turn_b = site.integer("transA", 0), site.integer("transB", 0)
    fits = not site.has(2) or site.shape(2) == (site.shape(1)[0 if turn_b else 1],)
    if alpha == 1 and beta == 1 and turn_b and not turn_a and fits:
        return F.linear

    def gemm(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        product = torch.matmul(a.T if turn_a else a, b.T if turn_b else b)
        product = product if alpha == 1 else product * alpha
        return product if c is None else product + (c if beta == 1 else c * beta)

    return gemm


@RULES.on("Einsum")
def _einsum(site: Site) -> Function:
    equation = site.text("equation", "").replace(" ", "")
    return lambda *terms: torch.einsum(equation, *terms)


@RULES.on("MatMulInteger")
def _matmul_integer(site: Site) -> Function:  # noqa: ARG001 - nothing but the inputs matters
    def product(a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None) -> Tensor:
        left, right = a.to(torch.int32), b.to(torch.int32)
        if a_zero is not None:
            zero = a_zero.to(torch.int32)
            left = left - (zero.unsqueeze(-1) if zero.dim() == 1 and zero.numel() > 1 else zero)
        return torch.matmul(left, right if b_zero is None else right - b_zero.to(torch.int32))

    return product

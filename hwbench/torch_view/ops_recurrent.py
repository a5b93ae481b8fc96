"""Rules of recurrent layers, unrolled over their steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hwbench.torch_view.site import Function, Rules, Site

RULES = Rules()
Tensor = torch.Tensor

_ACTIVATIONS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
_Step = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]  # projected input and state, to state


@RULES.on("RNN", "GRU", "LSTM")
def _recurrent(site: Site) -> Function:
    kind = site.node.op_type
    directions = 2 if site.text("direction", "forward") == "bidirectional" else 1
    first_backwards = site.text("direction", "forward") == "reverse"
    usual = _ACTIVATIONS[kind] * directions
    if [str(name) for name in site.attribute("activations") or usual] != usual or site.attribute("clip") is not None:
        site.refuse("activations other than the usual ones, or clipped")
    _same_lengths(site)
    batch_first, size = bool(site.integer("layout", 0)), site.shape(2)[-1]
    coupled, reset_after = bool(site.integer("input_forget", 0)), bool(site.integer("linear_before_reset", 0))
    states = 2 if kind == "LSTM" else 1

    def recur(x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, *more: Tensor | None) -> Any:
        x = x.transpose(0, 1) if batch_first else x
        initial = [None if s is None else s.transpose(0, 1) if batch_first else s for s in more[:states]]
        peepholes = more[2] if len(more) > 2 else None
        outputs, ends = [], []
        for direction in range(directions):
            bias = x.new_zeros(2 * w.shape[1]) if b is None else b[direction]
            begin = [
                x.new_zeros(x.shape[1], size) if len(initial) <= i or initial[i] is None else initial[i][direction]  # type: ignore[index]
                for i in range(states)
            ]
            holes = None if peepholes is None else peepholes[direction]
            step = _STEPS[kind](r[direction], bias, holes, coupled or reset_after)
            given = torch.matmul(x, w[direction].T) + bias[: w.shape[1]]
            backwards = first_backwards or direction == 1
            made, end = _unroll(step, given, tuple(begin), backwards)
            outputs.append(made)
            ends.append(end)
        whole = torch.stack(outputs, 1)  # steps x directions x batch x size
        last = [torch.stack([end[i] for end in ends]) for i in range(states)]
        if batch_first:
            return (whole.permute(2, 0, 1, 3), *[state.transpose(0, 1) for state in last])
        return (whole, *last)

    return recur


def _same_lengths(site: Site) -> None:
    """Take the input of sequence lengths, which must say nothing new."""
    steps = site.shape()[1 if site.integer("layout", 0) else 0]
    lengths = site.ints(4)
    if lengths is not None and set(lengths) != {steps}:
        site.refuse("sequences of different lengths")


def _unroll(
    step: _Step, given: Tensor, state: tuple[Tensor, ...], backwards: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    made = []
    steps = list(given.unbind(0))
    for current in reversed(steps) if backwards else steps:
        state = step(current, state)
        made.append(state[0])
    return torch.stack(made[::-1] if backwards else made), state


def _rnn(r: Tensor, bias: Tensor, holes: Tensor | None, flag: bool) -> _Step:  # noqa: ARG001 - as the others
    own = bias[r.shape[0] :]
    return lambda given, state: (torch.tanh(given + torch.matmul(state[0], r.T) + own),)


def _gru(r: Tensor, bias: Tensor, holes: Tensor | None, reset_after: bool) -> _Step:  # noqa: ARG001
    size = r.shape[1]
    own = bias[3 * size :]

    def step(given: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (h,) = state
        gates = torch.sigmoid(given[:, : 2 * size] + torch.matmul(h, r[: 2 * size].T) + own[: 2 * size])
        update, reset = gates.chunk(2, 1)
        if reset_after:
            candidate = reset * (torch.matmul(h, r[2 * size :].T) + own[2 * size :])
        else:
            candidate = torch.matmul(reset * h, r[2 * size :].T) + own[2 * size :]
        new = torch.tanh(given[:, 2 * size :] + candidate)
        return ((1 - update) * new + update * h,)

    return step


def _lstm(r: Tensor, bias: Tensor, holes: Tensor | None, coupled: bool) -> _Step:
    """Gates lie in the order input, output, forget, cell; peepholes in the order input, output, forget."""
    own = bias[r.shape[0] :]

    def step(given: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h, c = state
        i, o, f, g = (given + torch.matmul(h, r.T) + own).chunk(4, 1)
        peek_i, peek_o, peek_f = holes.chunk(3) if holes is not None else (0, 0, 0)
        enter = torch.sigmoid(i + peek_i * c)
        keep = 1 - enter if coupled else torch.sigmoid(f + peek_f * c)
        cell = keep * c + enter * torch.tanh(g)
        return torch.sigmoid(o + peek_o * cell) * torch.tanh(cell), cell

    return step


_STEPS = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}

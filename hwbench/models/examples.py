"""Example inputs, the same on every machine: what ``create`` returns beside a model."""

from __future__ import annotations

import math

import torch

from hwbench.models.bits import BitStream
from hwbench.records.model import TensorSpec

_SEED = 1  # not that of the weights

_PAD, _CLS, _SEP, _FIRST_WORD, _VOCABULARY = 0, 101, 102, 1000, 30522  # BERT's uncased WordPiece vocabulary


def unit_variance(inputs: tuple[TensorSpec, ...], batch_size: int) -> dict[str, torch.Tensor]:
    """Uniform noise of mean 0 and variance 1, like a normalised image."""
    bits, limit = BitStream(_SEED), math.sqrt(3.0)
    return {spec.name: bits.uniform((batch_size, *spec.shape[1:]), -limit, limit) for spec in inputs}


def zero_to_one(inputs: tuple[TensorSpec, ...], batch_size: int) -> dict[str, torch.Tensor]:
    """Uniform noise in [0, 1), like an image that was only scaled."""
    bits = BitStream(_SEED)
    return {spec.name: bits.uniform((batch_size, *spec.shape[1:]), 0.0, 1.0) for spec in inputs}


def sentence_pairs(inputs: tuple[TensorSpec, ...], batch_size: int) -> dict[str, torch.Tensor]:
    """Pairs of random sentences of different length, padded: ``[CLS] a [SEP] b [SEP] [PAD] ...``.

    The items use 3/4, 1/2, 1/4, 3/4, ... of the sequence, so that a runtime which ignores the mask is found out.
    """
    length = inputs[0].shape[1]
    words = BitStream(_SEED).integers((batch_size, length), _FIRST_WORD, _VOCABULARY)
    used = torch.tensor([[length * (3 - item % 3) // 4] for item in range(batch_size)])
    place = torch.arange(length).expand(batch_size, length)
    ids = torch.where(place == 0, _CLS, words)
    ids = torch.where((place == used // 2) | (place == used - 1), _SEP, ids)
    return {
        "input_ids": torch.where(place < used, ids, _PAD),
        "attention_mask": (place < used).long(),
        "token_type_ids": ((place > used // 2) & (place < used)).long(),
    }

"""BERT-Small: the encoder of Devlin et al. 2019 (arXiv:1810.04805) in the size Small of Turc et al. 2019.

4 post-norm layers of width 512 with 8 heads (arXiv:1908.08962, table 1), vocabulary 30522, up to 512 positions,
with the pooler and without a task head. Dropout has no effect outside training and is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_WIDTH, _HEADS, _DEPTH = 512, 8, 4
_VOCABULARY, _POSITIONS, _SEGMENTS = 30522, 512, 2
_EPSILON = 1e-12
_PENALTY = -1e4  # the authors' own; enough to leave exactly nothing of a padded token, and finite in float16


class Embeddings(nn.Module):
    """Token ids and segment ids (N, T) -> (N, T, 512): the sum of three learned vectors, normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.word = nn.Embedding(_VOCABULARY, _WIDTH)
        self.position = nn.Embedding(_POSITIONS, _WIDTH)
        self.segment = nn.Embedding(_SEGMENTS, _WIDTH)
        self.norm = nn.LayerNorm(_WIDTH, eps=_EPSILON)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        position = self.position.weight[: input_ids.shape[1]]
        out: Tensor = self.norm(self.word(input_ids) + position + self.segment(token_type_ids))
        return out


class Attention(nn.Module):
    """Multi-head self-attention; ``penalty`` (N, 1, 1, T) is added to the scores of each token."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(_WIDTH, _WIDTH)
        self.key = nn.Linear(_WIDTH, _WIDTH)
        self.value = nn.Linear(_WIDTH, _WIDTH)
        self.output = nn.Linear(_WIDTH, _WIDTH)

    def forward(self, x: Tensor, penalty: Tensor) -> Tensor:
        query, key, value = (_split(project(x)) for project in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=penalty)
        out: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return out


def _split(x: Tensor) -> Tensor:
    """(N, T, 512) -> (N, heads, T, 64)."""
    return x.reshape(*x.shape[:2], _HEADS, _WIDTH // _HEADS).transpose(1, 2)


class Layer(nn.Module):
    """Attention and a two-layer perceptron, each added to its input and then normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.norm1 = nn.LayerNorm(_WIDTH, eps=_EPSILON)
        self.mlp = nn.Sequential(nn.Linear(_WIDTH, 4 * _WIDTH), nn.GELU(), nn.Linear(4 * _WIDTH, _WIDTH))
        self.norm2 = nn.LayerNorm(_WIDTH, eps=_EPSILON)

    def forward(self, x: Tensor, penalty: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x, penalty))
        out: Tensor = self.norm2(x + self.mlp(x))
        return out


class BertSmall(nn.Module):
    """Token ids, mask (1: token, 0: padding) and segment ids (N, T) -> hidden (N, T, 512), pooled (N, 512).

    Every item needs at least one token that is not padding. ``hidden`` at padding is finite and means nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = Embeddings()
        self.layers = nn.ModuleList(Layer() for _ in range(_DEPTH))
        self.pooler = nn.Linear(_WIDTH, _WIDTH)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embeddings(input_ids, token_type_ids)
        penalty = (1 - attention_mask[:, None, None, :]).to(x.dtype) * _PENALTY
        for layer in self.layers:
            x = layer(x, penalty)
        return x, torch.tanh(self.pooler(x[:, 0]))


def bert_small() -> BertSmall:
    return BertSmall()

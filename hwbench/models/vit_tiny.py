"""ViT-Ti/16 for ImageNet: the vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) in the size Ti of DeiT.

196 patches of 16x16 and a class token, 12 pre-norm blocks of width 192 with 3 heads (Touvron et al. 2021,
arXiv:2012.12877, table 1). No distillation token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_WIDTH, _HEADS, _DEPTH, _PATCH = 192, 3, 12, 16
_PATCHES = (224 // _PATCH) ** 2
_EPSILON = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention: (N, T, 192) -> (N, T, 192)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(_WIDTH, 3 * _WIDTH)
        self.proj = nn.Linear(_WIDTH, _WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x)  # cut by slices: chunk and split export to ONNX sequences, which few runtimes take
        query, key, value = (_split(qkv[..., start : start + _WIDTH]) for start in (0, _WIDTH, 2 * _WIDTH))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


def _split(x: Tensor) -> Tensor:
    """(N, T, 192) -> (N, heads, T, 64)."""
    return x.reshape(*x.shape[:2], _HEADS, _WIDTH // _HEADS).transpose(1, 2)


class Block(nn.Module):
    """Attention and a two-layer perceptron, each on a normalised input and added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(_WIDTH, eps=_EPSILON)
        self.attention = Attention()
        self.norm2 = nn.LayerNorm(_WIDTH, eps=_EPSILON)
        self.mlp = nn.Sequential(nn.Linear(_WIDTH, 4 * _WIDTH), nn.GELU(), nn.Linear(4 * _WIDTH, _WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class VitTiny(nn.Module):
    """(N, 3, 224, 224) -> logits (N, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, _WIDTH, _PATCH, _PATCH)
        self.class_token = nn.Parameter(torch.zeros(1, 1, _WIDTH))
        self.position = nn.Parameter(torch.zeros(1, 1 + _PATCHES, _WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(_DEPTH)))
        self.norm = nn.LayerNorm(_WIDTH, eps=_EPSILON)
        self.head = nn.Linear(_WIDTH, 1000)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patches(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(image.shape[0], -1, -1), patches], dim=1)
        encoded = self.norm(self.blocks(tokens + self.position))
        logits: Tensor = self.head(encoded[:, 0])
        return logits


def vit_tiny() -> VitTiny:
    return VitTiny()

"""The story of ``hwbench plan``."""

from __future__ import annotations

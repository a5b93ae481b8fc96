"""The names of what a compression leaves, and of what it works in, inside the user's folder."""

from __future__ import annotations

MODEL, TORCH, CODEBOOKS = "model.onnx", "model.pt2", "codebooks.npz"
CALIBRATION = "calibration.json"  # ranges of activations that a step was trained with
FILES = (MODEL, f"{MODEL}.data", TORCH, CODEBOOKS, CALIBRATION)  # that a run may leave, beside its record
WORK, MADE = "work", "made"  # what is begun, for --resume to go on from; inside it, what will be the result

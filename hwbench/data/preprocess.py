"""From a picture to what a network takes: said in a file, never assumed.

A TOML file says it in the order in which it is done::

    resize = 256                    # the shorter side, or [height, width]; bicubic, antialiased
    crop = 224                      # from the centre, or [height, width]
    channels = "RGB"                # or "BGR", "L" (grey)
    divide = 255.0                  # of the pixels 0 to 255
    mean = [0.485, 0.456, 0.406]    # subtracted after that, a number a channel or one
    std = [0.229, 0.224, 0.225]     # divided by after that
    layout = "NCHW"                 # or "NHWC"

Everything has a default that does nothing. Or ``file.py:function``: it is given a picture as uint8 [H, W, 3], RGB, and
returns the array of one sample. Grey pictures of more than 8 bits are refused in both.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from hwbench.data.callables import load_callable
from hwbench.data.store import Array
from hwbench.errors import UsageError
from hwbench.records.base import Record, check

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

Size = int | tuple[int, int]
Prepare = Callable[[Any], Array]  # a PIL image to the array of one sample


class Preprocessing(Record, frozen=True, kw_only=True):
    """How a picture becomes a sample; see the module."""

    resize: Size | None = None
    crop: Size | None = None
    channels: Literal["RGB", "BGR", "L"] = "RGB"
    divide: float = 1.0
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    layout: Literal["NCHW", "NHWC"] = "NCHW"

    def __post_init__(self) -> None:
        for name in ("resize", "crop"):
            size = getattr(self, name)
            check(size is None or all(0 < side < 2**15 for side in np.atleast_1d(size)), f"{name} must be positive")
        count = 1 if self.channels == "L" else 3
        for name in ("mean", "std"):
            check(np.size(getattr(self, name)) in {1, count}, f"{name} needs one number, or {count}")
        check(self.divide != 0 and bool(np.all(np.asarray(self.std) != 0)), "divide and std must not be 0")


def read_preprocessing(name: str) -> Prepare:
    """Return the function that prepares one picture.

    Raises:
        UsageError: the file is not there, is no TOML, or holds what is not known.
    """
    if Path(name).suffix.lower() != ".toml":
        if ":" not in name:
            raise UsageError(f"--preprocess '{name}' is neither a .toml file nor file.py:function")
        function = load_callable(name)
        return lambda picture: np.asarray(function(np.asarray(_converted(picture, "RGB"))))
    try:
        found = msgspec.convert(tomllib.loads(Path(name).read_text(encoding="utf-8")), Preprocessing)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"--preprocess '{name}': {error}", hint="docs/data.md shows such a file") from error
    return lambda picture: prepare(picture, found)


def prepare(picture: Any, how: Preprocessing) -> Array:
    """Return a PIL image as float32 [C, H, W] or [H, W, C].

    Raises:
        UsageError: it is smaller than what is to be cut out of it, or has more than 8 bits a channel.
    """
    picture = _converted(picture, "L" if how.channels == "L" else "RGB")
    if how.resize is not None:
        picture = picture.resize(_resized(picture.size, how.resize), resample=3)  # 3: bicubic, and Pillow antialiases
    pixels = np.asarray(picture, dtype=np.float32)
    if how.crop is not None:
        pixels = _cropped(pixels, how.crop)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if how.channels == "BGR":
        pixels = pixels[:, :, ::-1]
    mean, std = (np.asarray(value, dtype=np.float32) for value in (how.mean, how.std))
    values = (pixels / np.float32(how.divide) - mean) / std
    return values if how.layout == "NHWC" else np.moveaxis(values, 2, 0)


def _converted(picture: Any, mode: str) -> Any:
    """Return ``picture`` in ``mode``; Pillow clips the modes of more than 8 bits (I;16, I, F) at 255 without a word."""
    if picture.mode.startswith(("I", "F")):
        raise UsageError("a picture of more than 8 bits a channel", hint="convert it first")
    return picture.convert(mode)


def _resized(size: tuple[int, int], wanted: Size) -> tuple[int, int]:
    """Return (width, height); one number is that of the shorter side."""
    if not isinstance(wanted, int):
        return wanted[1], wanted[0]
    width, height = size
    scale = wanted / min(width, height)
    return max(wanted, round(width * scale)), max(wanted, round(height * scale))


def _cropped(pixels: Array, wanted: Size) -> Array:
    height, width = (wanted, wanted) if isinstance(wanted, int) else wanted
    has_height, has_width = pixels.shape[:2]
    if has_height < height or has_width < width:
        raise UsageError(
            f"crop = {height}x{width} is larger than a picture of {has_height}x{has_width}", hint="resize it first"
        )
    top, left = (has_height - height) // 2, (has_width - width) // 2
    return pixels[top : top + height, left : left + width]

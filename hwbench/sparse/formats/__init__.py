"""The formats, by name; a kernel of the same name reads each one.

To add one: a module here with a frozen class that has what :class:`~hwbench.sparse.formats.base.Format` asks for, and
a line below (``kernels/README.md``, "Adding a kernel").
"""

from __future__ import annotations

from hwbench.sparse.formats.base import Format, Packed
from hwbench.sparse.formats.bitmap import Bitmap
from hwbench.sparse.formats.bsr import Bsr
from hwbench.sparse.formats.few_bits import FewBits
from hwbench.sparse.formats.gap4 import Gap4
from hwbench.sparse.formats.s24 import S24
from hwbench.sparse.formats.vw16 import Vw16

_ALL: tuple[Format, ...] = (
    S24(),
    S24("int8"),
    Vw16(),
    Vw16("int8"),
    Bsr(16),
    Bsr(16, "int8"),
    Bsr(32),
    Bsr(32, "int8"),
    Bitmap(),
    FewBits(2),
    FewBits(4),
    Gap4(),
)

FORMATS: dict[str, Format] = {each.name: each for each in _ALL}

__all__ = ["FORMATS", "Format", "Packed"]

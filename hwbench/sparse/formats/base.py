"""What a sparse format is: a way to hold a pruned matrix that one of the kernels in ``kernels/`` reads.

A layer computes ``Y[N, M] = X[N, K] · W[M, K]ᵀ``, as torch's ``Linear``; a format holds ``W``. It says which shapes it
takes, which weights to keep so that it can hold them, packs, unpacks, and tells how many bytes it takes. numpy only: a
torch tensor comes as ``tensor.numpy()``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Values = Literal["fp16", "int8", "int4", "int2"]


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A packed matrix of ``shape`` (M, K): what a kernel of the same name takes.

    ``arrays`` and ``scalars`` lie in the order of the kernel's arguments: arrays after ``x``, scalars (int32) after
    ``n, m, k``.
    """

    format: str
    shape: tuple[int, int]
    arrays: dict[str, np.ndarray[Any, Any]]
    scalars: dict[str, int]

    @property
    def bytes(self) -> int:
        """Bytes of all arrays, which is what a launch must read of the weight."""
        return sum(array.nbytes for array in self.arrays.values())


class Format(Protocol):
    """A way to hold a pruned matrix."""

    @property
    def name(self) -> str:
        """Return the name; the entry of its kernel is ``hwb_<name>``."""
        ...

    @property
    def values(self) -> Values:
        """Return the type the kept weights are held in."""
        ...

    def refuses(self, m: int, k: int) -> str | None:
        """Return why a matrix of ``m`` rows and ``k`` columns cannot be held, in words; ``None`` when it can."""
        ...

    def mask(self, scores: npt.NDArray[np.floating], sparsity: float) -> npt.NDArray[np.bool_]:
        """Return which weights to keep (M, K) for this format, given importance scores (M, K), higher is kept.

        ``sparsity`` is the share to be dropped, 0 to 1; a format with a fixed pattern raises ``ValueError`` at another.
        """
        ...

    def pack(self, weight: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_] | None = None) -> Packed:
        """Pack a weight (M, K); what the mask drops is taken as zero.

        Raises ``ValueError`` where the shape is refused, or where there are non-zeros that the format cannot hold.
        """
        ...

    def unpack(self, packed: Packed) -> npt.NDArray[np.float32]:
        """Return the matrix (M, K) that the kernel multiplies by, exactly."""
        ...

    def bytes_of(self, m: int, k: int, sparsity: float) -> float:
        """Return the bytes that a matrix of this shape takes at a sparsity, by the format's formula."""
        ...

"""The forms a layer can be factorised into: what pieces, at which ranks, with what weights.

    svd           two matrices: Gemm, MatMul and 1x1          nothing else
    channel-svd   k x k into r channels, then 1x1             where there is no kernel the same as svd
    spatial-svd   k x 1 into r channels, then 1 x k           arXiv:1405.3866
    tucker        1x1, k x k between r and s channels, 1x1    arXiv:1511.06530
    cp            1x1, k x 1 and 1 x k by channel, 1x1        arXiv:1412.6553

Each group of a convolution in groups is decomposed by itself, at a rank that all share. The window is divided among the
pieces so that what is computed is the same: strides and paddings go with the kernel axis they belong to, and padding
with zeros before a 1x1 without bias is padding with zeros behind it. The bias stays on the last piece.

With data, ``channel-svd`` gives the best rank-r layer for the inputs it has seen. In the other forms all pieces but the
last are those of the weights alone, and the last is fitted to the data by least squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hwbench.compress.factorise import cp, svd, tucker
from hwbench.compress.factorise.site import Piece, Site, Window
from hwbench.compress.factorise.spectrum import damped
from hwbench.graph.linear import Array
from hwbench.records.base import Missing

Ranks = tuple[int, ...]
Factors = list[Array]  # one a piece: groups x outputs x inputs x kernel positions


class Form(Protocol):
    """A way to write a layer as several."""

    def unfit(self, site: Site) -> Missing | None:
        """Return why a layer cannot have this form; None where it can."""
        ...

    def full(self, site: Site) -> Ranks:
        """Return the ranks above which nothing more can be gained."""
        ...

    def pieces(self, site: Site, ranks: Ranks) -> tuple[Piece, ...]:
        """Return the shapes of the layers at these ranks."""
        ...

    def energies(self, site: Site, gram: Array | None) -> Sequence[Array] | None:
        """Return for each rank the squared singular values, largest first, summed over groups; None: it has none."""
        ...

    def factors(self, site: Site, ranks: Ranks, gram: Array | None, seed: int) -> Factors:
        """Return the weights of the pieces; ``gram`` [groups, d, d] of the inputs fits them to data."""
        ...

    def features(self, site: Site, factors: Factors) -> Array:
        """Return all but the last piece as one map from patches: groups x what the last piece reads x d."""
        ...


def _matrix(weight: Array) -> Array:
    return weight.reshape(*weight.shape[:2], -1)


def composed(form: Form, site: Site, factors: Factors) -> Array:
    """Return what the pieces amount to: groups x outputs x (inputs x kernel positions)."""
    whole: Array = _matrix(factors[-1]) @ form.features(site, factors)
    return whole


def _point(site: Site, suffix: str, outputs: int, inputs: int) -> Piece:
    return _piece(site, suffix, outputs, inputs, site.window.point())


def _piece(site: Site, suffix: str, outputs: int, inputs: int, window: Window) -> Piece:
    return Piece(suffix=suffix, groups=site.groups, outputs=site.groups * outputs, inputs=inputs, window=window)


@dataclass(frozen=True)
class ChannelSvd:
    """The kernel into few channels, and 1x1 out of them."""

    def unfit(self, site: Site) -> Missing | None:
        return None

    def full(self, site: Site) -> Ranks:
        return (min(site.outputs, site.inputs * site.positions),)

    def pieces(self, site: Site, ranks: Ranks) -> tuple[Piece, ...]:
        (rank,) = ranks
        return _piece(site, "down", rank, site.inputs, site.window), _point(site, "up", site.outputs, rank)

    def energies(self, site: Site, gram: Array | None) -> Sequence[Array]:
        found = [svd.energies(part, None if gram is None else gram[g]) for g, part in enumerate(site.matrix())]
        return [np.sum(found, axis=0)]

    def factors(self, site: Site, ranks: Ranks, gram: Array | None, seed: int) -> Factors:
        pairs = [
            svd.truncated(part, *ranks) if gram is None else svd.truncated_on_data(part, gram[g], *ranks)
            for g, part in enumerate(site.matrix())
        ]
        down = np.stack([pair[1] for pair in pairs]).reshape(site.groups, *ranks, site.inputs, -1)
        return [down, np.stack([pair[0] for pair in pairs])[..., None]]

    def features(self, site: Site, factors: Factors) -> Array:
        return _matrix(factors[0])


@dataclass(frozen=True)
class Svd(ChannelSvd):
    """Two matrices, where there is no kernel."""

    def unfit(self, site: Site) -> Missing | None:
        if site.positions == 1:
            return None
        return Missing(
            code="kernel", why=f"svd is for matrices, and its kernel is {'x'.join(map(str, site.window.kernel))}",
            cure="take --set form=channel-svd",
        )  # fmt: skip


@dataclass(frozen=True)
class SpatialSvd:
    """A column of the kernel, then a row."""

    def unfit(self, site: Site) -> Missing | None:
        return _flat(site, "spatial-svd")

    def full(self, site: Site) -> Ranks:
        height, width = site.window.kernel
        return (min(site.inputs * height, site.outputs * width),)

    def pieces(self, site: Site, ranks: Ranks) -> tuple[Piece, ...]:
        (rank,) = ranks
        down = _piece(site, "down", rank, site.inputs, site.window.along(0))
        return down, _piece(site, "up", site.outputs, rank, site.window.along(1))

    def energies(self, site: Site, gram: Array | None) -> Sequence[Array]:
        found = [np.linalg.svd(part, compute_uv=False) ** 2 for part in self._unfolded(site)]
        return [np.sum(found, axis=0)]

    def factors(self, site: Site, ranks: Ranks, gram: Array | None, seed: int) -> Factors:
        (rank,), (height, width) = ranks, site.window.kernel
        pairs = [svd.truncated(part, rank) for part in self._unfolded(site)]
        down = np.stack([up.T.reshape(rank, site.inputs, height) for up, _ in pairs])
        right = np.stack([row.reshape(rank, site.outputs, width).swapaxes(0, 1) for _, row in pairs])
        return _fitted(self, site, [down, right], gram)

    def features(self, site: Site, factors: Factors) -> Array:
        height, width = site.window.kernel
        down = factors[0]
        spread = np.zeros((*down.shape[:2], width, site.inputs, height, width))
        for column in range(width):
            spread[:, :, column, :, :, column] = down
        return spread.reshape(site.groups, down.shape[1] * width, -1)

    def _unfolded(self, site: Site) -> Array:
        """Return the weights as groups x (inputs, rows of the kernel) x (outputs, columns of the kernel)."""
        kernel = site.blocks().reshape(site.groups, site.outputs, site.inputs, *site.window.kernel)
        unfolded: Array = kernel.transpose(0, 2, 3, 1, 4).reshape(
            site.groups, site.inputs * site.window.kernel[0], site.outputs * site.window.kernel[1]
        )
        return unfolded


@dataclass(frozen=True)
class Tucker:
    """1x1 to few channels, the core, 1x1 out. The ranks are those of outputs and of inputs."""

    def unfit(self, site: Site) -> Missing | None:
        if site.positions > 1:
            return None
        return Missing(
            code="no_kernel", why="tucker needs a kernel larger than one position", cure="take --set form=channel-svd"
        )

    def full(self, site: Site) -> Ranks:
        reach = site.positions
        return min(site.outputs, site.inputs * reach), min(site.inputs, site.outputs * reach)

    def pieces(self, site: Site, ranks: Ranks) -> tuple[Piece, ...]:
        out, into = ranks
        core = _piece(site, "core", out, into, site.window)
        return _point(site, "down", into, site.inputs), core, _point(site, "up", site.outputs, out)

    def energies(self, site: Site, gram: Array | None) -> Sequence[Array]:
        blocks = site.blocks()
        return [np.sum([tucker.unfolded_directions(part, axis)[1] for part in blocks], axis=0) for axis in (0, 1)]

    def factors(self, site: Site, ranks: Ranks, gram: Array | None, seed: int) -> Factors:
        found = [tucker.tucker2(part, (ranks[0], ranks[1])) for part in site.blocks()]
        left, core, right = (np.stack([parts[at] for parts in found]) for at in range(3))
        return _fitted(self, site, [right.swapaxes(1, 2)[..., None], core, left[..., None]], gram)

    def features(self, site: Site, factors: Factors) -> Array:
        down, core = factors[0][..., 0], factors[1]
        return _matrix(np.einsum("grsk,gsi->grik", core, down, optimize=True))


@dataclass(frozen=True)
class Cp:
    """1x1, a column and a row in each channel by itself, 1x1."""

    def unfit(self, site: Site) -> Missing | None:
        return _flat(site, "cp")

    def full(self, site: Site) -> Ranks:
        """Return a rank at which any kernel can be written so: one term for each but the longest axis."""
        sizes = sorted((site.outputs, site.inputs, *site.window.kernel))
        return (int(np.prod(sizes[:-1])),)

    def pieces(self, site: Site, ranks: Ranks) -> tuple[Piece, ...]:
        (rank,), window = ranks, site.window
        width = site.groups * rank
        column = Piece(suffix="column", groups=width, outputs=width, inputs=1, window=window.along(0))
        row = Piece(suffix="row", groups=width, outputs=width, inputs=1, window=window.along(1))
        return _point(site, "down", rank, site.inputs), column, row, _point(site, "up", site.outputs, rank)

    def energies(self, site: Site, gram: Array | None) -> None:
        return None

    def factors(self, site: Site, ranks: Ranks, gram: Array | None, seed: int) -> Factors:
        kernels = site.blocks().reshape(site.groups, site.outputs, site.inputs, *site.window.kernel)
        found = [cp.cp(kernel, ranks[0], seed) for kernel in kernels]
        up, into, column, row = (np.stack([parts[at] for parts in found]) for at in range(4))
        across = [factor.swapaxes(1, 2) for factor in (into, column, row)]
        pieces = [across[0][..., None], across[1][:, :, None], across[2][:, :, None], up[..., None]]
        return _fitted(self, site, pieces, gram)

    def features(self, site: Site, factors: Factors) -> Array:
        into, column, row = factors[0][..., 0], factors[1][:, :, 0], factors[2][:, :, 0]
        return _matrix(np.einsum("gri,grh,grw->grihw", into, column, row, optimize=True))


FORMS: dict[str, Form] = {
    "svd": Svd(),
    "channel-svd": ChannelSvd(),
    "spatial-svd": SpatialSvd(),
    "tucker": Tucker(),
    "cp": Cp(),
}


def _flat(site: Site, form: str) -> Missing | None:
    if len(site.window.kernel) == 2 and site.positions > 1:
        return None
    return Missing(
        code="no_kernel", why=f"{form} needs a kernel of two axes, larger than one position",
        cure="take --set form=channel-svd",
    )  # fmt: skip


def _fitted(form: Form, site: Site, factors: Factors, gram: Array | None) -> Factors:
    """Fit the last piece to the data, given the others: the least squares solution nearest to what it was."""
    if gram is None:
        return factors
    last, features, weight = _matrix(factors[-1]), form.features(site, factors), site.matrix()
    fitted = np.empty_like(last)
    for g in range(site.groups):
        seen = features[g] @ gram[g].astype(np.float64)
        missed = (weight[g] - last[g] @ features[g]) @ seen.T
        fitted[g] = last[g] + np.linalg.solve(damped(seen @ features[g].T), missed.T).T
    return [*factors[:-1], fitted.reshape(factors[-1].shape)]

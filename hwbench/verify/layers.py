"""Where a network begins to differ: every layer's output beside the reference's, on one batch.

Both sides run a graph whose layers are all outputs. A runtime then fuses less than it does otherwise: what is found is
where the arithmetic differs, not a measurement of the engine as deployed, and the result says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hwbench.children import Emit, serve
from hwbench.records.base import Missing
from hwbench.records.model import Layer
from hwbench.records.verification import LayerError, LayerErrors, LayersJob
from hwbench.verify.distance import rows, smallest_cosine, sqnr_db
from hwbench.verify.stores import OUTPUTS, Array, load_arrays

DIVERGES_BELOW_DB = 20.0  # error a tenth of the signal


def work(job: LayersJob, folder: Path, emit: Emit) -> LayerErrors:  # noqa: ARG001 - the child's signature
    """Compare what two runs of the exposed graph left."""
    emit({"event": "phase", "phase": "compare"})
    mine, theirs = (load_arrays(Path(where) / OUTPUTS) for where in (job.folder, job.reference_folder))
    errors = layer_errors(mine, theirs, job.layers)
    first = next((error.layer for error in errors if _diverged(error)), None)
    return LayerErrors(
        errors=errors,
        first_diverging=first if first is not None else Missing(code="none", why="no layer differs that much"),
        below_db=DIVERGES_BELOW_DB,
        samples=job.samples,
    )


def _diverged(error: LayerError) -> bool:
    return not isinstance(error.sqnr_db, Missing) and error.sqnr_db < DIVERGES_BELOW_DB


def layer_errors(
    mine: Mapping[str, Array], theirs: Mapping[str, Array], layers: Sequence[Layer]
) -> tuple[LayerError, ...]:
    """Return the error of every layer that both show, in the graph's order.

    ``added_db`` is by how much a layer's SQNR is below the worst of what feeds it: what this layer itself adds.
    """
    known: dict[str, float] = {}
    errors: list[LayerError] = []
    for layer in layers:
        name = next((out for out in layer.outputs if out in mine and out in theirs), None)
        before = [known[tensor] for tensor in layer.inputs if tensor in known]
        if name is None or mine[name].shape != theirs[name].shape:
            if before:  # not shown: its error is at least what came in
                known.update(dict.fromkeys(layer.outputs, min(before)))
            continue
        error = _error(layer, mine[name], theirs[name], before)
        own = error.sqnr_db
        known.update(dict.fromkeys(layer.outputs, math.inf if isinstance(own, Missing) else own))
        errors.append(error)
    return tuple(errors)


def _error(layer: Layer, mine: Array, theirs: Array, before: Sequence[float]) -> LayerError:
    a, b = rows(mine), rows(theirs)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        reason = Missing(code="not_finite", why="NaN or infinity in the output")
        return LayerError(
            layer=layer.name, op=layer.op, max_absolute=reason, sqnr_db=reason, cosine=reason, added_db=reason
        )
    sqnr = sqnr_db(a, b)
    return LayerError(
        layer=layer.name,
        op=layer.op,
        max_absolute=float(np.abs(a - b).max(initial=0.0)),
        sqnr_db=sqnr,
        cosine=smallest_cosine(a, b),
        added_db=_added(sqnr, before),
    )


def _added(sqnr: float | Missing, before: Sequence[float]) -> float | Missing:
    if isinstance(sqnr, Missing):
        return sqnr
    worst = min(before, default=math.inf)
    if math.isinf(worst):
        return Missing(code="first_error", why="what feeds it is equal to the reference's: all of its error is its own")
    return max(0.0, worst - sqnr)


if __name__ == "__main__":
    serve(work, LayersJob)

"""Samplers of Optuna by name, and how they are made repeatable.

An Optuna sampler keeps its random numbers in memory: one that is made again after a kill begins them anew, and would
ask for the points of its first trials once more. So a sampler is made afresh for every trial here, its seed drawn from
the search's seed and how many trials there were. All else that these samplers know they read from the trials. A search
that was killed and resumed asks for the same points as one that was not, as long as the same points get the same
values; measured ones do not quite.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.errors import EngineError
from hwbench.records.search import Pruner, Sampler

if TYPE_CHECKING:
    import optuna

_FEWEST, _MOST = 4, 50
VIOLATIONS = "violations"  # attribute of a trial, for Optuna before 5


def load_optuna() -> Any:
    """Import Optuna, quiet.

    Raises:
        EngineError: it is not installed.
    """
    try:
        module = importlib.import_module("optuna")
        importlib.import_module("sqlalchemy")
    except ImportError as error:
        raise EngineError(
            f"a search needs Optuna, SQLAlchemy and SciPy: {error}", hint="pip install 'hwbench-nn[plan]'"
        ) from error
    module.logging.set_verbosity(logging.WARNING)
    return module


def own_constraints() -> bool:
    """Say whether trials of this Optuna take constraints themselves (5.0); before, a sampler asks for them."""
    return hasattr(load_optuna().trial.Trial, "set_constraint")


def seed_of(seed: int, trial: int) -> int:
    """Return the seed of the sampler for one trial."""
    return int(np.random.SeedSequence([seed, trial]).generate_state(1)[0])


def make_sampler(name: Sampler, seed: int, *, constrained: bool, trials: int | None) -> optuna.samplers.BaseSampler:
    """Return the sampler called so.

    ``grid`` is not one of Optuna's: the points of the space are enumerated, as conditional parameters want it, and what
    is enqueued needs no sampler. Others: random; TPE (Bergstra et al. 2011; arXiv:2304.11127 describes the
    present form); Gaussian processes with expected improvement; NSGA-II (Deb et al. 2002) and NSGA-III (2014) with a
    population of a fifth of ``trials``, 4 to 50.

    Raises:
        EngineError: the sampler needs what is not installed.
    """
    found = load_optuna().samplers
    more: dict[str, Any] = {"seed": seed}
    if constrained and name in {"tpe", "nsga2", "nsga3"} and not own_constraints():
        more["constraints_func"] = _constraints_of
    if name in {"nsga2", "nsga3"}:
        more["population_size"] = max(_FEWEST, min(_MOST, (trials or 5 * _MOST) // 5))
    classes = {
        "grid": "RandomSampler",
        "random": "RandomSampler",
        "tpe": "TPESampler",
        "gp": "GPSampler",
        "nsga2": "NSGAIISampler",
        "nsga3": "NSGAIIISampler",
    }
    if name == "gp":
        _need_gp()
        more["warn_independent_sampling"] = False  # conditional parameters are drawn independently; the docs say so
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", load_optuna().exceptions.ExperimentalWarning)
        made: optuna.samplers.BaseSampler = getattr(found, classes[name])(**more)
        return made


def _need_gp() -> None:
    if not own_constraints():
        version = load_optuna().__version__
        raise EngineError(f"the sampler gp needs Optuna 5, this is {version}", hint="pip install 'optuna>=5'")
    try:
        importlib.import_module("torch")
    except ImportError as error:
        raise EngineError("the sampler gp computes with torch, which is not installed", hint="--sampler tpe") from error


def _constraints_of(trial: optuna.trial.FrozenTrial) -> list[float]:
    return [float(value) for value in trial.user_attrs.get(VIOLATIONS, {}).values()]


def make_pruner(name: Pruner) -> optuna.pruners.BasePruner:
    """Return the pruner called so: the median of earlier trials at the same epoch, or successive halving.

    Successive halving: Li et al., arXiv:1810.05934, of epochs, with a third going on at each rung.
    """
    pruners = load_optuna().pruners
    if name == "none":
        return pruners.NopPruner()  # type: ignore[no-any-return]
    if name == "median":
        return pruners.MedianPruner(n_startup_trials=4)  # type: ignore[no-any-return]
    return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)  # type: ignore[no-any-return]

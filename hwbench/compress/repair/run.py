"""The repairs in their order, each kept only where it helps.

    least-squares -> batch-norm -> statistics -> refinement, in rounds -> bias -> affine

Weights come first, since the moments of outputs follow from them; then statistics of BatchNormalization, or what
stands for them where it was folded; in the end what is left of the means, and the vectors learn.

Least squares is first done for the layers whose inputs or weights were changed, on what they read in the original: all
at once, in one pass of the original alone. Then come ``rounds`` of refinement: least squares for all layers in turn
(:mod:`hwbench.compress.repair.sequential`), each on what it reads *now*, so that it makes up for what those before it
still get wrong. Layers that read a tensor which the original has not (the last of several factors) are solved for in
these rounds only.

A part of the samples is held out. The network's outputs there are held against the original's before and after each
repair, and a repair that does not bring them nearer is taken back. So repairs never hurt on these samples. Of one batch
nothing can be held out: there repairs are judged on what they learned from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from hwbench.compress.base import Outcome, Settings, Subject
from hwbench.compress.statistics.grams import PER_INPUT, no_gram
from hwbench.errors import UsageError
from hwbench.graph.linear import Linear, constant
from hwbench.records.base import Missing
from hwbench.records.compression import Change, LeftAlone

if TYPE_CHECKING:
    from hwbench.compress.repair.judge import Judge
    from hwbench.compress.repair.least_squares import Solved

Name = Literal["least-squares", "batch-norm", "statistics", "bias", "affine"]
ORDER: tuple[Name, ...] = ("least-squares", "batch-norm", "statistics", "bias", "affine")


class RepairSettings(Settings, frozen=True, kw_only=True):
    """How a network is repaired."""

    which: tuple[Name, ...] = ORDER
    """The repairs, in any order: they are done in their own."""
    damping: float = 0.01
    """Of least squares, in units of the mean square of a layer's inputs: how strongly it holds on to the weights."""
    rounds: int = 3
    """Of refinement, at most; the first that does not help is the last. 0: none."""
    rows: float | None = PER_INPUT
    """Of least squares: how many rows are drawn for each input of a layer; none: all rows."""
    epochs: int = 2
    """Of affine tuning: how often it sees the samples."""
    learning_rate: float = 1e-3
    """Of affine tuning."""
    samples: int = 2048
    """How many samples are looked at, at most: the first."""
    held_out: float = 0.2
    """The fraction of them that repairs are judged on, and do not see."""

    def __post_init__(self) -> None:
        bounds = {
            "damping": (self.damping, 1e-9, 1e6),
            "rounds": (self.rounds, 0, 10_000),
            "rows": (1 if self.rows is None else self.rows, 0.1, 1e9),
            "epochs": (self.epochs, 1, 10_000),
            "learning_rate": (self.learning_rate, 1e-9, 10),
            "samples": (self.samples, 1, 1e9),
            "held_out": (self.held_out, 0.01, 0.9),
        }
        for name, (value, low, high) in bounds.items():
            if not low <= value <= high:
                raise UsageError(f"repair: {name} is {value:g}, and must lie between {low:g} and {high:g}")
        if not self.which:
            raise UsageError("repair: which is empty", hint="choose from " + ", ".join(ORDER))


def repair(
    subject: Subject,
    which: Collection[str] = ORDER,
    *,
    layers: Collection[str] | None = None,
    settings: RepairSettings | None = None,
) -> Outcome:
    """Repair a network, in place, and tell what helped; one whose outputs cannot be judged is left as it is.

    Args:
        subject: the network, its original, and samples.
        which: names of repairs.
        layers: the layers and normalisations that may be changed; all by default.
        settings: how; ``settings.which`` is not read.

    Raises:
        UsageError: a repair is unknown, or there are no samples.
        ModelError: the network puts out NaN on the samples.
    """
    from hwbench.compress.repair.judge import Judge

    unknown = sorted(set(which) - set(ORDER))
    if unknown:
        raise UsageError(f"there is no repair '{unknown[0]}'", hint="repairs: " + ", ".join(ORDER))
    settings = settings or RepairSettings()
    samples = replace(subject.need_samples("a repair"), labels=None).first(settings.samples)
    fit, held = (samples, samples) if samples.batches < 2 else samples.split(settings.held_out, subject.seed)
    learning = replace(subject, samples=fit)  # shares the books
    run = _Run(subject, learning, Judge(learning, held), settings, layers)
    if fit is held:
        run.notes.append("There is but one batch of samples, so repairs were judged on what they learned from.")
    error = run.judge.error()
    if isinstance(error, Missing):
        run.notes.append(f"Nothing was repaired: {error.why}.")
        return run.outcome()
    run.start(error)
    _carry_out(run, which)
    return run.outcome()


def _carry_out(run: _Run, which: Collection[str]) -> None:
    if "least-squares" in which:
        _least_squares(run)
    if "batch-norm" in which:
        run.attempt("batch-norm", partial(_reestimate, run))
    if "statistics" in which:
        run.attempt("statistics", partial(_correct, run, deviations=True))
    if "least-squares" in which:
        _refine(run)
    if "bias" in which:
        run.attempt("bias", partial(_correct, run, deviations=False))
    if "affine" in which:
        run.attempt("affine", partial(_tune, run))


@dataclass
class _Run:
    subject: Subject
    learning: Subject
    judge: Judge
    settings: RepairSettings
    layers: Collection[str] | None
    error: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    told: dict[str, list[str]] = field(default_factory=dict)
    left: dict[str, LeftAlone] = field(default_factory=dict)

    @property
    def seen_on(self) -> str:
        """What the outputs are judged on."""
        held_out = self.judge.samples is not self.learning.samples
        return "held-out samples" if held_out else "the samples that were learned from"

    def start(self, error: float) -> None:
        self.error = error
        self.figures["output_error_before"] = self.error

    def attempt(self, name: str, repairs: Callable[[], Mapping[str, str]]) -> bool:
        """Carry a repair out and keep it if the outputs come nearer to the original's; say whether they did."""
        from hwbench.compress.repair.judge import copy_of

        self.subject.report(f"repair: {name}", None)
        before = copy_of(self.learning.model)
        told = repairs()
        if not told:
            self.notes.append(f"{name}: there was nothing to do.")
            return False
        error = self.judge.error()
        assert isinstance(error, float)  # repairs change no output's shape or type
        if error < self.error:
            self.notes.append(f"{name}: output error {self.error:.4g} -> {error:.4g} on {self.seen_on}.")
            self.error = error
            self.figures[f"output_error_after_{name}".replace(" ", "_").replace("-", "_")] = error
            for layer, what in told.items():
                self.told.setdefault(layer, []).append(what)
            self.subject.model = self.learning.model
            return True
        self.notes.append(f"{name}: taken back, the output error would go from {self.error:.4g} to {error:.4g}.")
        self.learning.model = before
        self.subject.model = before
        return False

    def may(self, name: str) -> bool:
        return self.layers is None or name in self.layers

    def leave(self, layer: str, reason: Missing) -> None:
        self.left.setdefault(layer, LeftAlone(layer=layer, reason=reason))

    def outcome(self) -> Outcome:
        changes = [Change(layer=name, kind="repaired", what="; ".join(what)) for name, what in self.told.items()]
        left = [each for name, each in self.left.items() if name not in self.told]
        return Outcome(changes=changes, left_alone=left, figures=self.figures, notes=self.notes)


def _least_squares(run: _Run) -> None:
    layers = [name for name, layer in run.learning.layers().items() if run.may(name) and touched(run.subject, layer)]
    run.attempt("least-squares", partial(_solve, run, layers))


def _refine(run: _Run) -> None:
    """Least squares for all layers in turn, each on what it reads once those before it are done."""
    from hwbench.compress.repair.sequential import solve_in_turn

    def once() -> dict[str, str]:
        names = [name for name in run.learning.layers() if run.may(name)]
        settings = run.settings
        done, left = solve_in_turn(run.learning, names, damping=settings.damping, per_input=settings.rows)
        for name, reason in left.items():
            run.leave(name, reason)
        return _told(done)

    for number in range(run.settings.rounds):
        if not run.attempt(f"refinement {number + 1}", once):
            return


def _told(done: Sequence[Solved]) -> dict[str, str]:
    return {
        each.layer: f"least squares: error {each.before:.3g} -> {each.after:.3g} ({each.rows} rows)" for each in done
    }


def _solve(run: _Run, names: Collection[str]) -> dict[str, str]:
    from hwbench.compress.repair.least_squares import reconstruct
    from hwbench.compress.repair.match import match
    from hwbench.compress.statistics.pairs import paired

    there, matches = run.learning.layers(), []
    for name in names:
        trouble = no_gram(there[name])
        found = match(run.learning, there[name]) if trouble is None else trouble
        if isinstance(found, Missing):
            run.leave(name, found)
        elif isinstance(found.reads, Missing):
            run.leave(name, found.reads)
        else:
            matches.append(found)
    done = []
    for one, pair in paired(run.learning, matches, own=False, per_input=run.settings.rows):
        solved = reconstruct(run.learning, one, pair, run.settings.damping)
        if solved is not None:
            done.append(solved)
    return _told(done)


def touched(subject: Subject, layer: Linear) -> bool:
    """Say whether a layer's weights, but for outputs that were cut, are others than in the original."""
    value = layer.node.inputs[1]
    there = subject.original.graph.initializers.get("" if value is None else value.name or "")
    old = constant(there)
    if value is None or old is None:
        return True
    for axis, left in subject.kept.get(value.name or "", {}).items():
        if axis == layer.output_axis or layer.groups > 1:
            old = np.take(old, left, axis=axis)
    return old.shape != layer.weight.shape or not np.array_equal(old, layer.weight)


def _reestimate(run: _Run) -> dict[str, str]:
    from hwbench.compress.repair.batch_norm import reestimate

    found = reestimate(run.learning, run.layers)
    for each in found.left_alone:
        run.leave(each.layer, each.reason)
    return dict.fromkeys(found.changed, "statistics measured again")


def _correct(run: _Run, *, deviations: bool) -> dict[str, str]:
    from hwbench.compress.repair.moments import correct_moments

    found = correct_moments(run.learning, run.layers, deviations=deviations)
    for each in found.left_alone:
        if each.reason.code != "normalised":
            run.leave(each.layer, each.reason)
    what = "means and deviations" if deviations else "means"
    return {layer: f"{what} corrected, off by {off:.2g} deviations" for layer, off in found.changed.items()}


def _tune(run: _Run) -> dict[str, str]:
    from hwbench.compress.repair.affine import tune_affine

    epochs, rate = run.settings.epochs, run.settings.learning_rate
    tuned = tune_affine(run.learning, epochs=epochs, learning_rate=rate, only=run.layers)
    for each in tuned.left_alone:
        run.leave(each.layer, each.reason)
    return dict.fromkeys(tuned.changed, "vectors tuned")

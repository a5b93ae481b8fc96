"""What is asked of the child that finds out what choices lose, and what it says of whole designs."""

from __future__ import annotations

from hwbench.records.base import Missing, Record, check, check_finite
from hwbench.records.model import ImportResult
from hwbench.records.planning import Design, Space
from hwbench.records.quantization import Calibration

NOT_FINITE, CANNOT_BE_MADE = "not_finite", "cannot_be_made"
_BROKEN = frozenset({NOT_FINITE, CANNOT_BE_MADE})  # codes of why a design has no agreement


class SensitivitySettings(Record, frozen=True, kw_only=True):
    """How losses are found.

    ``runtime``: whose precisions are followed (onnxruntime, openvino, litert, tensorrt). ``criterion``: by which
    channels go. ``damping``: of the readers' least squares, in units of the mean square of what they read.
    ``screen_samples``: every choice is run on so many of the samples first. ``pairs``: at most so many pair terms.
    ``budget_s``: what all of it may take, statistics included; what was not run is told.
    """

    runtime: str = "onnxruntime"
    criterion: str = "l2"
    damping: float = 0.01
    screen_samples: int = 64
    pairs: int = 150
    budget_s: float = 300.0

    def __post_init__(self) -> None:
        check(1e-9 <= self.damping <= 1e6, f"damping must lie between 1e-09 and 1e+06, got {self.damping:g}")
        check(self.screen_samples >= 1, f"screen_samples must be at least 1, got {self.screen_samples}")
        check(self.pairs >= 0, f"pairs must be at least 0, got {self.pairs}")
        check_finite(self, "budget_s")


class SensitivityJob(Record, frozen=True, kw_only=True):
    """A network whose losses are wanted. ``data_folder``: of the selection samples, as a data child laid them down.

    ``learn_folder``: of the samples that patches are refitted to; None: those that they are judged on.
    ``other_batch``: the same network at another batch size, which tells what depends on it. ``calibration``: ranges of
    the folded network's tensors; None where no site offers int8. ``state_folder``: what has been run is kept there;
    ``resume``: what is there already counts. ``pairs``: a label for every two samples is one of a pair.
    """

    imported: ImportResult
    other_batch: ImportResult | None
    space: Space
    data_folder: str
    data_sha256: str
    learn_folder: str | None = None
    learn_sha256: str | None = None
    calibration: Calibration | None
    settings: SensitivitySettings
    state_folder: str
    resume: bool
    pairs: bool = True
    threads: int
    seed: int


class StitchQuestion(Record, frozen=True, kw_only=True):
    """What does a whole design lose? ``samples``: on the first so many; None: on all."""

    design: Design
    samples: int | None = None


class StitchAnswer(Record, frozen=True, kw_only=True):
    """What it loses on ``n`` samples; ``divergence`` as in :class:`hwbench.records.planning.Loss`.

    ``agreement``: the fraction of rows whose largest score is where the original's is. ``accuracy``: with labels;
    with those of pairs Spearman's correlation.
    """

    divergence: float
    agreement: float | Missing
    accuracy: float | Missing
    n: int

    def __post_init__(self) -> None:
        check_finite(self, "divergence", "agreement")
        check_finite(self, "accuracy", minimum=-1)

    @property
    def broken(self) -> Missing | None:
        """Why no network that works comes of the design; None where one does."""
        return self.agreement if isinstance(self.agreement, Missing) and self.agreement.code in _BROKEN else None

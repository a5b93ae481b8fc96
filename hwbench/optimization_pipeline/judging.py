"""How good a built network is on one part of the data, and whether it may be chosen: the one place of the goals."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from hwbench.errors import EngineError, UsageError
from hwbench.intake import Intake
from hwbench.inventory import Target, first_engine, pinned_cpus
from hwbench.optimization_pipeline.kept import Kept
from hwbench.records.base import Missing
from hwbench.records.model import ImportResult
from hwbench.records.optimization import Candidate, Drop, Made, OptimizeRequest, Part, Parts, Scored
from hwbench.records.verification import Agreement, Certificate, RunJob, RunResult, ScoreJob, ScoreResult, Task
from hwbench.verify.intervals import clopper_pearson, paired_shares

_REFERENCE_ENGINE = "onnxruntime"  # runs the graph as it is written, in the precision it is written in


class Judge:
    """Runs built networks over samples and holds them against the original and the labels."""

    def __init__(self, request: OptimizeRequest, target: Target, intake: Intake, kept: Kept) -> None:
        self.request, self.target, self.intake, self.kept = request, target, intake, kept
        self.task: Task | None = None

    def prepare(self, original: ImportResult, parts: Parts) -> ScoreResult:
        """Run the original over the samples to select by; return how good it is there."""
        self.original, self.parts = original, parts
        found = self.reference(parts.select)
        self.task = found.task
        return found

    def reference(self, part: Part) -> ScoreResult:
        """Run the original over a part, once."""
        return self.kept.once(f"reference/{part.name}", ScoreResult, lambda: self._reference(part))

    def _reference(self, part: Part) -> ScoreResult:
        engine = first_engine([self.original], self.target.device, _REFERENCE_ENGINE)
        precision = "fp32" if self.original.model.arithmetic == "fp32" else "auto"
        where = self._run(engine, precision, self.original, part, f"reference/{part.name}", f"{engine} {precision}")
        return self._score(where, None, part, f"reference/{part.name}-score", "the original")

    def score(self, name: str, made: Made, part: Part) -> Scored:
        """Run a built network over a part and judge it.

        Raises:
            HwbenchError: it fails while running, or what it puts out cannot be judged.
        """
        self.reference(part)
        place = f"scores/{name}-{part.name}"
        run = self._run(made.engine.artefact.engine, "auto", made.imported, part, place, name)
        found = self._score(run, self.kept.folder / "reference" / part.name, part, f"{place}-score", name)
        shutil.rmtree(run, ignore_errors=True)  # outputs may be large
        return Scored(
            part=part.name,
            task=found.task,
            scores=found.scores,
            agreement=found.agreement,
            certificate=found.certificate,
            drop=drop_of(found, self.parts.certify.facts.samples / part.facts.samples),
            finite=not (isinstance(found.agreement, Missing) and found.agreement.code == "not_finite"),
        )

    def _run(self, engine: str, precision: str, imported: ImportResult, part: Part, where: str, what: str) -> Path:
        job = RunJob(
            engine=engine,
            precision=precision,
            model=imported.model,
            files=imported.files,
            device=self.target.device,
            data_folder=part.folder,
            samples=part.facts.samples,
            expose=False,
            threads=self.request.threads,
            cpus=pinned_cpus(self.target, self.request.threads),
        )
        self.intake.run(
            "hwbench.verify.run", job, RunResult, where, f"{what} over {part.facts.samples} samples", EngineError
        )
        return self.kept.folder / where

    def _score(self, run: Path, reference: Path | None, part: Part, where: str, what: str) -> ScoreResult:
        job = ScoreJob(
            folder=str(run),
            reference_folder=None if reference is None else str(reference),
            by_position=self.original.model.kind == "engine",
            data_folder=part.folder,
            labels=part.facts.labels,
            task=self.task or self.request.task,
            metric=self.request.metric,
            max_drop=self.request.max_drop,
            seed=self.request.seed,
        )
        return self.intake.run("hwbench.verify.score", job, ScoreResult, where, f"judging {what}", UsageError)


def drop_of(found: ScoreResult, times: float) -> Drop | Missing:
    """Return how far a network falls below the original, and what to expect of so many ``times`` as many samples."""
    certificate, agreement = found.certificate, found.agreement
    if isinstance(certificate, Certificate):
        worse, better, n = certificate.worse, certificate.better, certificate.n
        if isinstance(worse, int) and isinstance(better, int):
            expected = paired_shares(round(worse * times), round(better * times), round(n * times))[1]
        else:
            expected = certificate.drop + (certificate.high - certificate.drop) / math.sqrt(times)
        return Drop(
            metric=certificate.metric,
            drop=certificate.drop,
            low=certificate.low,
            high=certificate.high,
            n=n,
            expected=min(expected, 1e308),
        )
    if certificate.code != "no_labels" or not isinstance(agreement, Agreement):
        return certificate
    certify = round(agreement.n * times)
    return Drop(
        metric="other decisions",
        drop=agreement.rate,
        low=0.0,
        high=agreement.high,
        n=agreement.n,
        expected=clopper_pearson(round(agreement.rate * certify), certify)[1],
    )


class Eligibility:
    """Who may be chosen, as far as the selection split tells.

    What is chosen has to be certified on other samples. So where these suffice to certify anything at all, a candidate
    counts when its certificate is to be expected: the upper end of its drop, on so many samples, at the rates seen, is
    within what is allowed. Where they do not, it counts when the drop that was seen is.
    """

    def __init__(self, max_drop: float, baselines: Sequence[Candidate]) -> None:
        self.max_drop = max_drop
        drops = [each.selected.drop for each in baselines if not isinstance(each.selected, Missing)]
        self.certifiable = any(not isinstance(drop, Missing) and drop.expected <= max_drop for drop in drops)

    def settled(self, candidate: Candidate) -> Candidate:
        """Return a candidate with whether it counts, and why."""
        counts, why = self.judge(candidate.selected)
        return msgspec.structs.replace(candidate, counts=counts, why=why)

    def judge(self, scored: Scored | Missing) -> tuple[bool, str]:
        """Say whether a candidate counts, and why."""
        if isinstance(scored, Missing):
            return False, str(scored)
        if not scored.finite:
            return False, "its outputs hold NaN or infinity"
        drop = scored.drop
        if isinstance(drop, Missing):
            return False, str(drop)
        told = f"{drop.metric}: {drop.drop:+.4g} on {drop.n} samples"
        if not self.certifiable:
            return drop.drop <= self.max_drop, f"{told}, allowed {self.max_drop:.4g}; too few samples to certify"
        return (
            drop.expected <= self.max_drop,
            f"{told}, to be certified as at most {drop.expected:.4g}, allowed {self.max_drop:.4g}",
        )


def distance(scored: Scored | Missing, max_drop: float) -> float:
    """Return by how much a candidate misses the goal; infinite where nothing is known of it."""
    if isinstance(scored, Missing) or isinstance(scored.drop, Missing):
        return math.inf
    return max(0.0, scored.drop.drop - max_drop)

"""Candidates: the uniform baselines and what is proposed, each built, judged on the selection split, and kept."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from hwbench import plugins
from hwbench.build.plan import plan_for
from hwbench.build_pipeline import of_builder
from hwbench.errors import EngineError, HwbenchError, StorageError, Unsupported
from hwbench.inventory import cannot_build
from hwbench.optimization_pipeline.judging import Judge
from hwbench.optimization_pipeline.kept import Kept, plain
from hwbench.optimization_pipeline.making import Maker
from hwbench.protocols import Builds, Engine
from hwbench.records.base import Missing
from hwbench.records.measurement import NotMeasured
from hwbench.records.optimization import Baselines, Candidate, Made, OptimizeRequest, Proposal, Scored
from hwbench.records.planning import Design, Space

CANDIDATES = "candidates"
UNIFORM = ("fp32", "bf16", "fp16", "auto", "int8", "int8-dynamic")
UNIFORM_ON_GPUS = (
    "fp32", "tf32", "bf16", "fp16", "auto", "int8", "int8-dynamic", "fp8", "int8-weights", "int4-weights",
)  # fmt: skip
_FLOATS = frozenset({"fp32", "bf16", "fp16"})
_NOT_YET = Missing(code="not_yet", why="it has not been built")
_BASELINE = Missing(code="uniform", why="it is a baseline: nothing was predicted of it")


class Workshop:
    """Builds and judges candidates, each once over all the runs that this takes."""

    def __init__(self, request: OptimizeRequest, maker: Maker, judge: Judge, kept: Kept) -> None:
        self.request, self.maker, self.judge, self.kept = request, maker, judge, kept

    def baselines(self) -> Baselines:
        """Build every engine in every precision that it offers, and judge each.

        Raises:
            EngineError: nothing could be built.
        """
        found: list[Candidate] = []
        failed: list[NotMeasured] = []
        for engine, precision in self._uniform(failed):
            done = self._baseline(engine, precision)
            same = next((each for each in found if _alike(each, done)), None)
            if isinstance(done.made, Missing):
                bad = done.made.code != "unsupported"
                failed.append(NotMeasured(engine=engine, precision=precision, reason=done.made, failed=bad))
            elif same is not None:
                reason = Missing(code="same", why=f"it is the same engine as {same.name}")
                failed.append(NotMeasured(engine=engine, precision=precision, reason=reason, failed=False))
            else:
                found.append(done)
        if not found:
            reasons = "\n".join(f"{each.engine} {each.precision}: {each.reason}" for each in failed)
            raise EngineError(f"nothing could be built of '{self.request.model}'", hint=reasons)
        return Baselines(candidates=tuple(found), not_built=tuple(failed))

    def _uniform(self, failed: list[NotMeasured]) -> list[tuple[str, str]]:
        """Return every engine that builds with every uniform precision of it; note those that cannot be used."""
        found = []
        for name in self.request.engines or plugins.available("engines"):
            engine: Engine = plugins.load("engines", name)
            if not isinstance(engine, Builds) or (not self.request.engines and of_builder(engine)):
                continue
            reason = cannot_build(engine, self.judge.original, self.judge.target)
            if reason is not None:
                failed.append(NotMeasured(engine=name, precision="", reason=reason, failed=False))
                continue
            found += [(name, each) for each in self.request.precisions or self._all(engine) if each in engine.schemes]
        return found

    def _all(self, engine: Builds) -> tuple[str, ...]:
        """Return what a plan must not be slower than; what this GPU or its runtime lacks is refused with a reason.

        A GPU's engine is not the same file when it is built again, so ``auto`` would go beside the precision it means.
        """
        if self.judge.target.device.kind not in {"nvidia", "jetson"}:
            return UNIFORM
        told = self.judge.original.model.arithmetic in _FLOATS and set(engine.schemes) >= _FLOATS
        return tuple(each for each in UNIFORM_ON_GPUS if each != "auto" or not told)

    def _baseline(self, engine: str, precision: str) -> Candidate:
        plan, name = plan_for(precision), f"{engine} {precision}"
        nothing = Proposal(engine=engine, design=Design(floating=plan.floating), predicted=_BASELINE)
        return self._realised(_new(name, nothing, 0, precision), lambda: self.maker.made(engine, plan, plain(name)))

    def proposal(self, name: str, proposal: Proposal, number: int, space: Space) -> Candidate:
        """Build and judge what was proposed in a round."""
        candidate = _new(name, proposal, number, None)
        return self._realised(
            candidate, lambda: self.maker.designed(proposal.engine, space, proposal.design, plain(name))
        )

    def _realised(self, candidate: Candidate, make: Callable[[], Made]) -> Candidate:
        place = f"{CANDIDATES}/{plain(candidate.name)}"
        return self.kept.once(place, Candidate, lambda: self._tried(candidate, make))

    def _tried(self, candidate: Candidate, make: Callable[[], Made]) -> Candidate:
        """Build and judge; what fails is told in the record."""
        try:
            made = make()
        except StorageError:
            raise
        except HwbenchError as error:
            code = "unsupported" if isinstance(error, Unsupported) else "engine_failed"
            reason = Missing(code=code, why=error.message, cure=error.hint)
            return msgspec.structs.replace(candidate, made=reason, selected=reason)
        selected: Scored | Missing
        try:
            selected = self.judge.score(plain(candidate.name), made, self.judge.parts.select)
        except EngineError as error:
            selected = Missing(code="engine_failed", why=error.message, cure=error.hint)
        return msgspec.structs.replace(candidate, made=made, selected=selected)


def _new(name: str, proposal: Proposal, number: int, precision: str | None) -> Candidate:
    return Candidate(
        name=name,
        engine=proposal.engine,
        precision=precision,
        round=number,
        design=proposal.design,
        predicted=proposal.predicted,
        decisions=proposal.decisions,
        made=_NOT_YET,
        selected=_NOT_YET,
        counts=False,
        why="it has not been judged",
    )


def _alike(one: Candidate, other: Candidate) -> bool:
    """Say whether two bundles hold the same engine, with the same settings."""
    if isinstance(one.made, Missing) or isinstance(other.made, Missing):
        return False
    a, b = one.made.engine.artefact, other.made.engine.artefact
    return (a.engine, a.sha256, a.settings) == (b.engine, b.sha256, b.settings)

"""The parent's side of sampling: children run one after the other until every design is timed or has a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from hwbench.children import run_child, thread_limits
from hwbench.errors import EngineError
from hwbench.intake import Intake
from hwbench.records.base import Missing
from hwbench.records.planning import CostSample
from hwbench.records.sampling import NotSampled, SampleJob, SamplingDone

MODULE = "hwbench.tables.sample"


@dataclass(kw_only=True)
class Collected:
    """What sampling has brought."""

    samples: list[CostSample] = field(default_factory=list)
    not_sampled: list[NotSampled] = field(default_factory=list)


def collect(
    job: SampleJob, intake: Intake, where: str, on_sample: Callable[[CostSample], None] | None = None
) -> Collected:
    """Sample the designs of a job, in as many children as it takes.

    A design during which a child dies is given up, with the child's last words as the reason, and another child goes on
    behind it. ``on_sample`` is called with each sample as it comes: what it keeps is kept, whatever ends the run.

    Raises:
        HwbenchError: the unchanged network cannot be built or run, or the job is wrong.
        KeyboardInterrupt: passed on; samples have gone to ``on_sample``.
    """
    found = Collected()
    todo, attempt = list(job.designs), 0
    while todo:
        follower = _Follower(found, on_sample, intake)
        attempt += 1
        now = msgspec.structs.replace(job, designs=tuple(todo))
        try:
            done = run_child(
                MODULE,
                now,
                SamplingDone,
                folder=intake.folder / where / str(attempt),
                what=f"timing variants with {job.engine}",
                failure=EngineError,
                timeout_s=intake.timeout_s,
                env=thread_limits(job.threads),
                on_event=follower.hear,
            )
        except EngineError as error:
            if follower.at is None:
                raise
            reason = Missing(code="engine_failed", why=error.message, cure=error.hint)
            timed = {id(todo[number]) for number in follower.timed}
            lost = todo[follower.at]
            found.not_sampled.append(NotSampled(design=lost, reason=reason))
            todo = [design for design in todo if id(design) not in timed and design is not lost]
            continue
        found.not_sampled += done.not_sampled
        todo = []
    return found


class _Follower:
    """Listens to one child. ``at``: the number of the design that it was last heard to be at."""

    def __init__(self, found: Collected, on_sample: Callable[[CostSample], None] | None, intake: Intake) -> None:
        self.found, self.on_sample, self.intake = found, on_sample, intake
        self.timed: list[int] = []
        self.at: int | None = None

    def hear(self, event: dict[str, Any]) -> None:
        if event["number"] >= 0:
            self.at = event["number"]
        if "sample" not in event:
            self.intake.watch(event["what"], event["fraction"])
            return
        sample = msgspec.convert(event["sample"], type=CostSample)
        self.timed.append(event["number"])
        self.found.samples.append(sample)
        if self.on_sample is not None:
            self.on_sample(sample)

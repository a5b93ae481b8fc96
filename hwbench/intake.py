"""What commands bring in, each in a child process: models and data; and any other work of theirs, on the same terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hwbench.children import run_child, thread_limits
from hwbench.errors import HwbenchError, ModelError, UsageError
from hwbench.records.base import Record
from hwbench.records.data import DataJob, DataResult
from hwbench.records.model import ImportJob, ImportResult, Model

R = TypeVar("R", bound=Record)
Watch = Callable[[str, float | None], None]  # what is being done, in words, and the fraction that is


@dataclass(frozen=True, kw_only=True)
class Intake:
    """Children of one command: their scratch folders lie in ``folder``, and ``watch`` hears what each is doing."""

    folder: Path
    watch: Watch
    threads: int
    timeout_s: float  # the longest silence
    seed: int

    def run(
        self,
        module: str,
        job: Record,
        result: type[R],
        where: str,
        what: str,
        failure: type[HwbenchError],
        *,
        env: Mapping[str, str] | None = None,
    ) -> R:
        """Run a module on a job in the folder ``where``; see :func:`~hwbench.children.run_child`."""
        self.watch(what, None)
        return run_child(
            module,
            job,
            result,
            folder=self.folder / where,
            what=what,
            failure=failure,
            timeout_s=self.timeout_s,
            env={**thread_limits(self.threads), **(env or {})},
            on_event=lambda event: self.watch(event.get("what", what), event.get("fraction")),
        )

    def model(
        self,
        text: str,
        where: str = "model",
        *,
        batch_size: int | None = None,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> ImportResult:
        """Bring a model in.

        Raises:
            HwbenchError: as :func:`hwbench.graph.importer.import_model` says.
        """
        job = ImportJob(model=text, batch_size=batch_size, shapes=dict(shapes or {}), input_data=None, seed=self.seed)
        return self.run("hwbench.graph.importer", job, ImportResult, where, f"reading '{text}'", ModelError)

    def data(
        self, text: str, model: Model, where: str, *, limit: int | None = None, preprocess: str | None = None
    ) -> DataResult:
        """Bring data in for a model.

        Raises:
            HwbenchError: as :func:`hwbench.data.read.work` says.
        """
        job = DataJob(data=text, model=model, limit=limit, preprocess=preprocess)
        return self.run("hwbench.data.read", job, DataResult, where, f"reading '{text}'", UsageError)

"""Ask, try, tell: the loop of a search, which knows nothing of what a trial does."""

from __future__ import annotations

from collections.abc import Callable

from hwbench.records.search import Trial
from hwbench.search.ledger import Asked, Ledger, copy_of

Try = Callable[[Asked], Trial]


def search(
    ledger: Ledger,
    attempt: Try,
    *,
    trials: int | None,
    out_of_time: Callable[[], bool] = lambda: False,
    after: Callable[[Trial], None] = lambda _: None,
) -> str:
    """Try points until the end, and return why it came.

    A point that was tried before is not tried again: its trial says whose results it has. That costs no time, and a
    sampler that repeats itself is told so.

    Args:
        ledger: the trials so far, and who proposes.
        attempt: tries a point; a failure is a record too, what it raises ends the search.
        trials: how many at most, those of an earlier run counted in.
        out_of_time: asked before each trial.
        after: called after each with its record.
    """
    while True:
        if ledger.exhausted and not ledger.retry:
            return f"every point of the space was tried: {ledger.count}"
        if trials is not None and ledger.done >= trials:
            return f"{trials} trials were asked for"
        if out_of_time():
            return "the time is up"
        asked = ledger.ask()
        twin = ledger.twin(asked.params)
        trial = attempt(asked) if twin is None else copy_of(twin, asked)
        ledger.tell(asked, trial)
        after(trial)

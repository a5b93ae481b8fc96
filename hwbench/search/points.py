"""The points of a space: counted, enumerated, asked of a sampler; and what a point says is to be done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from hwbench.errors import UsageError
from hwbench.records.compression import Step
from hwbench.records.quantization import CalibrationSettings
from hwbench.records.search import Parameter, Scalar, SearchSpace

if TYPE_CHECKING:
    import optuna

Values = dict[str, Scalar]
MOST = 1_000_000  # points: of a larger space nobody tries all
_TRAINING_BATCH = 32
_SAMPLES = 300  # to calibrate with, as `hwbench build` has it


def is_there(parameter: Parameter, values: Mapping[str, Scalar]) -> bool:
    """Say whether a parameter exists where the earlier ones have these values."""
    return all(
        parent in values and any(_same(values[parent], one) for one in wanted)
        for parent, wanted in parameter.when.items()
    )


def _same(one: Scalar, other: Scalar) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def values_of(parameter: Parameter) -> tuple[Scalar, ...] | None:
    """Return all values of a parameter, or None where they cannot be counted."""
    if parameter.kind == "categorical":
        return parameter.values
    low, high = parameter.low, parameter.high
    assert low is not None
    assert high is not None
    if low == high:
        return (low,)
    if parameter.kind == "integer":
        return tuple(range(int(low), int(high) + 1, int(parameter.step or 1)))
    if parameter.step is None:
        return None
    return tuple(low + number * parameter.step for number in range(round((high - low) / parameter.step) + 1))


def count(space: SearchSpace) -> int | None:
    """Return how many different points a space has; None: without end. No more than :data:`MOST` are counted."""
    if any(values_of(one) is None for one in space.parameters):
        return None
    return sum(1 for _, _ in zip(range(MOST), points(space), strict=False))


def points(space: SearchSpace) -> Iterator[Values]:
    """Yield every point of a finite space, fixed values left out.

    Raises:
        UsageError: the space is not finite; names the parameters that make it so.
    """
    endless = [one.name for one in space.parameters if values_of(one) is None]
    if endless:
        raise UsageError(
            f"the space has no end: {', '.join(endless)}", hint="give step, or a list of values; or another --sampler"
        )
    for values in _points(space.parameters, {}):
        yield searched(space, values)


def _points(rest: tuple[Parameter, ...], values: Values) -> Iterator[Values]:
    if not rest:
        yield values
        return
    one = rest[0]
    if not is_there(one, values):
        yield from _points(rest[1:], values)
        return
    for value in values_of(one) or ():
        yield from _points(rest[1:], {**values, one.name: value})


def searched(space: SearchSpace, values: Mapping[str, Scalar]) -> Values:
    """Return the values of a point without those that are the same at all points."""
    return {one.name: values[one.name] for one in space.parameters if not one.fixed and one.name in values}


def whole(space: SearchSpace, params: Mapping[str, Scalar]) -> Values:
    """Return a point with the fixed values that are there with it."""
    values: Values = {}
    for one in space.parameters:
        if is_there(one, values):
            values[one.name] = one.values[0] if one.fixed else params[one.name]
    return values


def key(params: Mapping[str, Scalar]) -> str:
    """Return a text that equal points share."""
    return msgspec.json.encode(sorted(params.items())).decode()


def suggest(space: SearchSpace, trial: optuna.trial.Trial) -> Values:
    """Ask a sampler for a point."""
    values: Values = {}
    for one in space.parameters:
        if not is_there(one, values):
            continue
        values[one.name] = one.values[0] if one.fixed else _suggested(one, trial)
    return searched(space, values)


def _suggested(one: Parameter, trial: optuna.trial.Trial) -> Scalar:
    if one.kind == "categorical":
        chosen = trial.suggest_categorical(one.name, one.values)
        assert chosen is not None
        return chosen
    assert one.low is not None
    assert one.high is not None
    if one.kind == "integer":
        return trial.suggest_int(one.name, int(one.low), int(one.high), step=int(one.step or 1), log=one.log)
    return trial.suggest_float(one.name, one.low, one.high, step=one.step, log=one.log)


@dataclass(frozen=True, kw_only=True)
class Point:
    """What is to be done at a point.

    ``training`` makes the network that ``steps`` then compress and recover, all of them steps of ``hwbench compress``:
    two runs, since what is compressed must be held against the trained network, not against the first weights.
    ``batch_size`` is of inference, ``training_batch_size`` of training and statistics.
    """

    engine: str
    precision: str
    threads: int
    batch_size: int
    samples: int
    calibration: CalibrationSettings
    arguments: dict[str, Scalar]
    training: Step | None
    steps: tuple[Step, ...]
    training_batch_size: int

    @property
    def as_it_is(self) -> bool:
        """Whether the network is built as it came."""
        return self.training is None and not self.steps


def point_of(space: SearchSpace, params: Mapping[str, Scalar], seed: int) -> Point:
    """Return what a point says is to be done.

    Raises:
        UsageError: its settings do not go together.
    """
    values = whole(space, params)
    runtime, calibration = _of(values, "runtime"), _of(values, "calibration")
    training, recovery = _of(values, "training"), _of(values, "recovery")
    batch = training.pop("batch_size", recovery.pop("batch_size", _TRAINING_BATCH))
    samples = calibration.pop("samples", _SAMPLES)
    try:
        settings = msgspec.convert({**calibration, "seed": seed}, CalibrationSettings)
    except msgspec.ValidationError as error:
        raise UsageError(f"calibration: {error}") from error
    taught = {"teacher": "taught_by" in training, **training}
    steps = [step for step in (_cut(space, values, each.name) for each in space.steps) if step is not None]
    if steps and recovery and recovery.get("epochs", 1):
        steps.append(Step(method="finetune", settings=recovery))
    return Point(
        engine=str(runtime["engine"]),
        precision=str(runtime["precision"]),
        threads=int(runtime["threads"]),
        batch_size=int(runtime["batch_size"]),
        samples=int(samples),
        calibration=settings,
        arguments=_of(values, "model"),
        training=Step(method="finetune", settings=taught) if training else None,
        steps=tuple(steps),
        training_batch_size=int(batch),
    )


def _cut(space: SearchSpace, values: Values, name: str) -> Step | None:
    """Return a compression step, or None where this point does not use it."""
    slot = next(each for each in space.steps if each.name == name)
    settings = _of(values, f"compression.{name}")
    if not settings.pop("use", True):
        return None
    return Step(method=slot.method, layers=slot.layers, settings=settings)


def _of(values: Mapping[str, Scalar], section: str) -> dict[str, Any]:
    return {name.removeprefix(f"{section}."): value for name, value in values.items() if name.startswith(f"{section}.")}

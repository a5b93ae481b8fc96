"""The losses of a site's options that were not run, from those that were and the shape of the pre-screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

_LEAST = 1e-12  # nats: what cannot be told from nothing


def filled(screens: Sequence[float], measured: Mapping[int, float], factor: float = 1.0) -> list[float]:
    """Return a loss for every option.

    Between options that were run the logarithm of the loss is linear in that of the screen; outside of them the loss is
    proportional to it. The result never falls where the screen rises, except between options that were run, which are
    returned as they are. Where none was run, a loss is ``factor`` times the screen.
    """
    if not measured:
        return [factor * max(0.0, screen) for screen in screens]
    x = np.log(np.maximum(np.asarray(screens, float), _LEAST))
    places = sorted(measured, key=lambda place: (x[place], place))
    known_x = x[places]
    known_y = np.maximum.accumulate(np.log([max(_LEAST, measured[place]) for place in places]))
    inside = np.interp(x, known_x, known_y)
    found = inside + np.minimum(x - known_x[0], 0) + np.maximum(x - known_x[-1], 0)
    guessed = np.where(np.exp(found) < 2 * _LEAST, 0.0, np.exp(found))
    return [measured.get(place, float(guess)) for place, guess in enumerate(guessed)]


def typical_factor(screens: Sequence[float], losses: Sequence[float]) -> float:
    """Return the median of loss over screen, of those that are above nothing; 1 where there are none."""
    ratios = [loss / screen for screen, loss in zip(screens, losses, strict=True) if screen > _LEAST and loss > _LEAST]
    return float(np.median(ratios)) if ratios else 1.0

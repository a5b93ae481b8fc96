"""Losses of all options within a time: estimated for all, run for as many as there is time for.

    estimate every option (one backward pass)
    run one option of each site, then a second, then the rest, on a part of the samples
    run pairs of options that lie near each other (CLADO, arXiv:2307.05657)
    run the options that lose little again, on all samples

What was not run is told from the estimates by :mod:`hwbench.sensitivity.curve`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from hwbench.errors import ModelError, Unsupported
from hwbench.plan.designs import design_of
from hwbench.records.base import Missing
from hwbench.records.planning import Design, Loss, PairLoss, Sensitivity, Site, Space
from hwbench.records.sensitivity import CANNOT_BE_MADE, NOT_FINITE, SensitivitySettings, StitchAnswer
from hwbench.sensitivity.curve import filled, typical_factor
from hwbench.sensitivity.ledger import Ledger
from hwbench.sensitivity.near import near_pairs
from hwbench.sensitivity.patch import Patch
from hwbench.sensitivity.patches import Composer
from hwbench.sensitivity.screen import screened
from hwbench.sensitivity.stitch import Stitch

MOST_SENSITIVE = 20  # sites, of which pairs are looked at
HOPELESS = 1.0  # nats (or relative error): no plan takes such an option
BROKEN = 100.0  # in the same unit: what puts out NaN or infinity or cannot be made, which no plan takes either
_SINGLES, _PAIRS = 0.6, 0.8  # of the time: until when single options, and until when pairs are run

Clock = Callable[[], float]
T = TypeVar("T", bound=Hashable)
Key = tuple[str, int]  # a site by name, and the place of an option


def judged(stitch: Stitch, composer: Composer, design: Design, what: str, samples: int | None) -> StitchAnswer:
    """Return what a design loses; where no network comes of it that works, :data:`BROKEN`, and no agreement.

    That is one that puts out NaN or infinity, or cannot be made, since a layer cannot have all that is asked of it.
    """
    try:
        return stitch.judge(composer.compose(design), what=what, samples=samples)
    except (ModelError, Unsupported) as error:
        code = CANNOT_BE_MADE if isinstance(error, Unsupported) else NOT_FINITE
        reason = Missing(code=code, why=error.message)
        n = stitch.count(samples) * stitch.network.batch
        return StitchAnswer(divergence=BROKEN, agreement=reason, accuracy=reason, n=n)


def measure_losses(
    space: Space,
    stitch: Stitch,
    composer: Composer,
    ledger: Ledger,
    settings: SensitivitySettings,
    *,
    clock: Clock = time.monotonic,
    started_s: float | None = None,
) -> Sensitivity:
    """Return what every option but the first of every site loses.

    An option of which comes no network that works loses :data:`BROKEN`; a note names it.

    Args:
        space: the sites.
        stitch: the network they are stitched into, and the samples.
        composer: makes their patches.
        ledger: what has been run; all that is run is entered.
        settings: the time, and how much of the rest.
        clock: seconds.
        started_s: since when the time counts, by ``clock``; None: now.

    Raises:
        UsageError: a site does not fit the network.
    """
    begun = clock() if started_s is None else started_s
    return _Scoring(space, stitch, composer, ledger, settings, clock, begun).run()


@dataclass
class _Scoring:
    space: Space
    stitch: Stitch
    composer: Composer
    ledger: Ledger
    settings: SensitivitySettings
    clock: Clock
    begun: float
    answers: dict[Key, StitchAnswer] = field(default_factory=dict)
    prefixed: set[Key] = field(default_factory=set)
    took: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    screened_n: int = 0
    rough: int = 0  # options with zeros that were estimated without a refit

    def run(self) -> Sensitivity:
        designs = {
            (site.name, place): design_of(self.space, {site.name: place})
            for site in self.space.sites
            for place in range(1, len(site.options))
        }
        few = self.stitch.count(self.settings.screen_samples) * self.stitch.network.batch
        every = len(self.stitch.batches) * self.stitch.network.batch
        screens = self._screen(designs)
        self._singles(designs, few)
        singles = dict(self.answers)
        pairs = self._pairs(singles, few)
        if every > few:
            self._again(designs, every)
        self.notes += [
            f"{site}: {one.broken.why}; the option counts as one that no plan takes"
            for (site, _), one in self.answers.items()
            if one.broken is not None
        ]
        losses = self._losses(screens)
        return Sensitivity(
            hub_sha256=self.space.hub_sha256,
            measure="kl" if self.stitch.measure == "kl" else "relative",
            n=max((one.n for one in self.answers.values()), default=few),
            losses=tuple(losses),
            pairs=tuple(pairs),
            took_s=self.clock() - self.begun,
            notes=tuple(self.notes),
        )

    def _screen(self, designs: dict[Key, Design]) -> dict[Key, float]:
        names = {f"{place}@{site}": (site, place) for site, place in designs}
        made = {name: partial(self._patch, designs[key]) for name, key in names.items()}
        screens, starts, self.screened_n = screened(self.stitch, made, self.settings.screen_samples)
        self.stitch.cut_at(list(starts.values()))
        if self.clock() - self.begun > self.settings.budget_s:
            self.notes.append("the statistics and estimates alone took longer than the time that was given")
        if self.rough:
            self.notes.append(
                f"{self.rough} options with zeros were estimated without a refit for want of time: where they were not "
                "run, they are said to lose too much"
            )
        end = len(self.stitch.flow.nodes)
        same = [names[name][0] for name, start in starts.items() if start == end]
        if same:
            self.notes.append(
                f"nothing is rounded of {', '.join(dict.fromkeys(same))}: they have no constant weights, what they "
                "read has no range, or the runtime leaves them as they are; their loss is that of floating point"
            )
        self.prefixed = {names[name] for name, start in starts.items() if any(cut <= start for cut in self.stitch.cuts)}
        return {key: screens[name] if math.isfinite(screens[name]) else BROKEN for name, key in names.items()}

    def _patch(self, design: Design) -> Patch:
        """Return the patch of an option; zeros without the refit when half of the time for single options is gone."""
        refit = not design.zeros or self.clock() - self.begun <= _SINGLES / 2 * self.settings.budget_s
        self.rough += not refit
        return self.composer.compose(design, refit=refit)

    def _singles(self, designs: dict[Key, Design], samples: int) -> None:
        order = [key for turn in _turns(self.space.sites) for key in turn]
        done = self._all([(key, designs[key]) for key in order], samples, _SINGLES, "what single choices lose")
        self.answers |= done
        if len(done) < len(order):
            self.notes.append(
                f"{len(order) - len(done)} of {len(order)} options were not run for want of time: their losses are "
                "told by the estimate"
            )

    def _again(self, designs: dict[Key, Design], samples: int) -> None:
        hopeful = sorted((one.divergence, key) for key, one in self.answers.items() if one.divergence < HOPELESS)
        asked = [(key, designs[key]) for _, key in hopeful]
        done = self._all(asked, samples, 1.0, "what single choices lose, on all samples")
        self.answers |= done
        left = len(self.answers) - len(done)
        if left:
            self.notes.append(
                f"{left} of {len(self.answers)} options were run on a part of the samples alone: "
                f"{len(self.answers) - len(asked)} lose {HOPELESS:g} or more, {len(asked) - len(done)} for want of time"
            )

    def _pairs(self, singles: dict[Key, StitchAnswer], samples: int) -> list[PairLoss]:
        wanted = self._wanted(singles)
        asked = {pair: design_of(self.space, dict(pair)) for pair in wanted[: self.settings.pairs]}
        found = self._all(list(asked.items()), samples, _PAIRS, "what two choices lose together")
        if len(found) < len(wanted):
            self.notes.append(f"{len(wanted) - len(found)} of {len(wanted)} pairs of near choices were not run")
        option = {site.name: site.options for site in self.space.sites}
        return [
            PairLoss(
                site=first[0],
                option=option[first[0]][first[1]].name,
                other_site=second[0],
                other_option=option[second[0]][second[1]].name,
                extra=one.divergence - singles[first].divergence - singles[second].divergence,
            )
            for (first, second), one in found.items()
            if one.broken is None
        ]

    def _wanted(self, singles: dict[Key, StitchAnswer]) -> list[tuple[Key, Key]]:
        """Return the pairs of near sites among the most sensitive, each at the option that was run first."""
        firsts = {key[0]: key for key in _turns(self.space.sites)[0] if key in singles}
        loss = {name: singles[key].divergence for name, key in firsts.items()}
        bearable = sorted((name for name in loss if 0 < loss[name] < HOPELESS), key=lambda name: -loss[name])
        chosen = set(bearable[:MOST_SENSITIVE])
        near = sorted(tuple(sorted(pair)) for pair in near_pairs(self.space) if pair <= chosen)
        near.sort(key=lambda pair: -loss[pair[0]] * loss[pair[1]])
        return [(firsts[first], firsts[second]) for first, second in near]

    def _all(self, asked: list[tuple[T, Design]], samples: int, share: float, what: str) -> dict[T, StitchAnswer]:
        """Run designs until a share of the time is gone; what the ledger knows takes none."""
        found: dict[T, StitchAnswer] = {}
        self.took = []
        for at, (key, design) in enumerate(asked):
            answer = self.ledger.find(design, samples)
            if answer is None:
                if not self._time_for(share):
                    continue
                self.stitch.network.report(what, at / len(asked))
                answer = self._timed(design, samples, str(key))
            found[key] = answer
        return found

    def _time_for(self, share: float) -> bool:
        likely = max(self.took[-5:], default=0.0)
        return self.clock() - self.begun + likely <= share * self.settings.budget_s

    def _timed(self, design: Design, samples: int, what: str) -> StitchAnswer:
        begun = self.clock()
        answer = judged(self.stitch, self.composer, design, what, samples)
        self.ledger.enter(design, samples, answer)
        self.took.append(self.clock() - begun)
        return answer

    def _losses(self, screens: dict[Key, float]) -> list[Loss]:
        sound = {key: one for key, one in self.answers.items() if one.broken is None}
        factors = {
            kind: typical_factor(
                [screens[key] for key in sound if key[0].startswith(f"{kind}:")],
                [one.divergence for key, one in sound.items() if key[0].startswith(f"{kind}:")],
            )
            for kind in {site.kind for site in self.space.sites}
        }
        return [loss for site in self.space.sites for loss in self._of_site(site, screens, factors[site.kind])]

    def _of_site(self, site: Site, screens: dict[Key, float], factor: float) -> list[Loss]:
        places = range(1, len(site.options))
        known = {place: self.answers[site.name, place] for place in places if (site.name, place) in self.answers}
        guessed = filled(
            [screens[site.name, place] for place in places],
            {place - 1: one.divergence for place, one in known.items()},
            factor,
        )
        return [
            Loss(
                site=site.name,
                option=site.options[place].name,
                divergence=guessed[place - 1],
                n=known[place].n if place in known else self.screened_n,
                how="screened"
                if place not in known
                else "prefix"
                if (site.name, place) in self.prefixed
                else "forward",
            )
            for place in places
        ]


def _turns(sites: tuple[Site, ...]) -> list[list[Key]]:
    """Return options in the order in which they are run: one of every site, the one in the middle, first."""
    turns: list[list[Key]] = []
    for site in sites:
        last = len(site.options) - 1
        middle = (last + 1) // 2
        order = list(dict.fromkeys([middle, last, 1, *range(1, last + 1)]))
        for turn, place in enumerate(order):
            while len(turns) <= turn:
                turns.append([])
            turns[turn].append((site.name, place))
    return turns

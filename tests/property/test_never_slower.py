"""The guard on simulated machines: what it takes is never truly slower than the best uniform one, beyond the floor.

Simulated are what a contest sees: processes that differ, blocks that scatter, bursts of other tenants. The truth is
known, so that wrong choices can be counted. Each machine is another one: between processes 0.1 to 3 %, so that many are
too noisy to tell anything.
"""

import math

import numpy as np
from fake_contests import Machine, contest, entrants

from hwbench.compare.guard import choose

RUNS = 1000


def simulated(seed):
    """One machine; return the truth over that of the best uniform one for what was chosen, the floor, and the word."""
    chance = np.random.default_rng(seed)
    uniform = [f"uniform {number}" for number in range(2)]
    planned = [f"plan {number}" for number in range(3)]
    latency_s = {name: 1e-2 * math.exp(abs(chance.normal(0, 0.1))) for name in uniform}
    best = min(latency_s.values())
    latency_s |= {name: best * math.exp(chance.normal(0.02, 0.03)) for name in planned}  # most are a little slower
    machine = Machine(
        latency_s, between=float(np.exp(chance.uniform(np.log(0.001), np.log(0.03)))), within=0.005, burst=0.05,
        seed=seed,
    )  # fmt: skip
    found, _ = contest(machine, entrants(uniform, planned), budget_s=20.0, seed=seed, restarts=3, block_s=1e-3)
    choice = choose(found, meets=lambda name: True, distance=lambda name: 0.0)
    return latency_s[choice.entrant] / best, found.floor, choice.word


def test_what_is_taken_is_not_slower_than_the_best_uniform_one():
    found = [simulated(seed) for seed in range(RUNS)]
    planned = [(ratio, floor) for ratio, floor, word in found if word == "FASTER"]
    assert len(planned) > RUNS / 10, "the guard must let something through"
    wrong = sum(ratio > 1 for ratio, _ in planned)
    beyond = sum(ratio > 1 + floor for ratio, floor, _ in found)
    print(f"{RUNS} machines, {len(planned)} planned ones taken, {wrong} of them slower, {beyond} beyond the A/A floor")
    assert wrong <= 0.02 * RUNS
    assert beyond <= 0.002 * RUNS

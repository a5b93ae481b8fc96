"""Losses of single choices against those of whole designs, stitched; and stitched designs against networks really made.

    make bench PYTEST_ARGS="-k additivity -s"

Random designs of a real network: the sum of single losses, with and without pair terms, beside the loss of all choices
stitched together; then some of them cut, repaired and quantised as hwbench does it, and run by ONNX Runtime in int8.
HWBENCH_SHARED_DATA names the folder of networks and data. HWBENCH_DESIGNS: how many; HWBENCH_BUDGET_S: for the losses.

Predictions, made before anything was run: for designs that lose up to 1 nat, the Spearman correlation of sum and joint
loss is above 0.9, and the sum is low for designs with several strong cuts (the median of joint over sum between 1 and
2); pair terms bring the median of |log(joint / sum)| down, by a tenth to a third. Stitched and realised losses have the
same order (Spearman above 0.8), and the realised ones are lower, since repair does more than the refit (median of
realised over stitched between 0.4 and 1).
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import real_tasks
from compress_subjects import imported, subject_of

torch = pytest.importorskip("torch", reason="designs are stitched into a torch view")
stats = pytest.importorskip("scipy.stats", reason="Spearman's correlation")

from hwbench.compress.api import compress  # noqa: E402
from hwbench.compress.simulated import find_ranges, folded, simulated  # noqa: E402
from hwbench.data.samples import Samples  # noqa: E402
from hwbench.graph.linear import Linear, linear_layers  # noqa: E402
from hwbench.graph.onnx_file import infer_shapes  # noqa: E402
from hwbench.models.digits import load_digits_split  # noqa: E402
from hwbench.plan.designs import design_of, precision_plan, steps_of  # noqa: E402
from hwbench.plan.sites import space_of  # noqa: E402
from hwbench.records.planning import Space  # noqa: E402
from hwbench.records.quantization import CalibrationSettings  # noqa: E402
from hwbench.records.sensitivity import SensitivitySettings  # noqa: E402
from hwbench.sensitivity.compare import Tally  # noqa: E402
from hwbench.sensitivity.ledger import Ledger  # noqa: E402
from hwbench.sensitivity.masks import refused_widths  # noqa: E402
from hwbench.sensitivity.network import Network  # noqa: E402
from hwbench.sensitivity.patches import Composer  # noqa: E402
from hwbench.sensitivity.score import measure_losses  # noqa: E402
from hwbench.sensitivity.spread import spread_pairs  # noqa: E402
from hwbench.sensitivity.stitch import Stitch  # noqa: E402

CASES = {"digits_cnn": (64, 256, 256), "resnet20": (32, 128, 300), "efficientnet": (8, 48, 64), "mini_lm": (16, 96, 96)}
MADE = {"digits_cnn": 8, "resnet20": 6}  # designs that are really made


def scene(name, folder):
    """The hub, samples to judge on, samples to learn from, and the space."""
    batch, judged, learnt = CASES[name]
    if name == "digits_cnn":
        hub = infer_shapes(imported(name, folder, batch=batch))
        entry = next(value.name for value in hub.graph.inputs)
        split = load_digits_split()
        images, labels = split["test"]
        given, judge, y = {entry: split["train"][0][:learnt]}, {entry: images[:judged]}, labels[:judged]
    else:
        task = real_tasks.task(name, folder)
        hub = infer_shapes(imported(task.spec, folder, batch=batch))
        given, judge = ({key: a[:count] for key, a in part.items()}
                        for part, count in ((task.calibration, learnt), (task.test, judged)))  # fmt: skip
        y = task.labels[:judged] if task.kind == "classification" else None
    space = space_of(hub, "0" * 64, refused=refused_widths(hub))
    samples = Samples(inputs=judge, labels=y, batch=batch)
    return hub, samples, Samples(inputs=given, labels=None, batch=batch), space


def random_choices(space: Space, losses, count: int, rng: np.random.Generator):
    """Choices of which each loses little alone: that is where plans lie."""
    mild = {}
    place = {(site.name, option.name): at for site in space.sites for at, option in enumerate(site.options)}
    for one in losses:
        if one.divergence < 0.1:
            mild.setdefault(one.site, []).append(place[one.site, one.option])
    found = []
    for _ in range(count):
        share = rng.uniform(0.05, 0.5)
        found.append({site: int(rng.choice(places)) for site, places in mild.items() if rng.random() < share})
    return found


def told(name, pairs):
    joint, given = (np.array(each) for each in zip(*pairs, strict=True))
    ratio = joint / given
    print(
        f"  {name:30s} N {len(joint):3d}  Spearman {stats.spearmanr(joint, given).statistic:.3f}  "
        f"joint/told: median {np.median(ratio):.2f}, "
        f"10-90 % {np.quantile(ratio, 0.1):.2f}-{np.quantile(ratio, 0.9):.2f}"
        f"  median |log| {np.median(np.abs(np.log(ratio))):.3f}"
    )


@pytest.mark.parametrize("name", CASES)
def test_additivity(name, tmp_path, benchmark):
    torch.set_num_threads(1)
    hub, judged, learnt, space = scene(name, tmp_path)
    subject = subject_of(hub, tmp_path, samples=learnt)
    ranges = find_ranges(folded(hub), subject, learnt, CalibrationSettings())
    network = Network(hub, judged, ranges=ranges)
    composer, stitch = Composer(network, space), Stitch(network)
    begun = time.monotonic()
    composer.gather()
    gathered = time.monotonic() - begun
    ledger = Ledger(tmp_path / "state", "it", resume=False)
    settings = SensitivitySettings(budget_s=float(os.environ.get("HWBENCH_BUDGET_S", "120")), screen_samples=64)
    found = benchmark.pedantic(measure_losses, args=(space, stitch, composer, ledger, settings), rounds=1)
    ledger.close()
    ways = {how: sum(one.how == how for one in found.losses) for how in ("forward", "prefix", "screened")}
    print(f"\n{name}: {len(space.sites)} sites, {len(found.losses)} options {ways}, {len(found.pairs)} pairs, "
          f"{found.measure}, Grams {gathered:.1f} s, losses {found.took_s:.1f} s, cuts {len(stitch.cuts)}")  # fmt: skip
    for note in found.notes:
        print("  note:", note)
    designs, rows = random_choices(space, found.losses, int(os.environ.get("HWBENCH_DESIGNS", "30")),
                                   np.random.default_rng(0)), []  # fmt: skip
    loss = {(one.site, one.option): one.divergence for one in found.losses}
    option = {site.name: [each.name for each in site.options] for site in space.sites}
    for choice in designs:
        chosen = {(site, option[site][at]) for site, at in choice.items()}
        alone = sum(loss[each] for each in chosen)
        extra, spread = (sum(pair.extra for pair in each.pairs
                             if {(pair.site, pair.option), (pair.other_site, pair.other_option)} <= chosen)
                         for each in (found, spread_pairs(found)))  # fmt: skip
        answer = stitch.judge(composer.compose(design_of(space, choice)), what="a design")
        rows.append((choice, answer, alone, *(max(alone + each, 0.1 * alone) for each in (extra, spread))))
    used = [row for row in rows if row[1].divergence < 1 and row[2] > 0]
    told("sum of single losses", [(row[1].divergence, row[2]) for row in used])
    told("with the pairs that were run", [(row[1].divergence, row[3]) for row in used])
    told("with pairs of all options", [(row[1].divergence, row[4]) for row in used])
    made = [(row, realised(hub, stitch, learnt, space, row[0])) for row in used[: MADE.get(name, 0)]]
    if made:
        told("made, against stitched", [(there.divergence, row[1].divergence) for row, there in made])
        for row, there in made:
            print(f"    {len(row[0]):3d} choices: sum {row[2]:.4f}, stitched {row[1].divergence:.4f} "
                  f"({row[1].accuracy:.4f}), made {there.divergence:.4f} ({there.accuracy:.4f})")  # fmt: skip
    assert stats.spearmanr([row[1].divergence for row in used], [row[2] for row in used]).statistic > 0.6


def realised(hub, stitch, learnt, space, choice):
    """Cut, repair, calibrate again, and compute as ONNX Runtime does (to the bit: test_simulated_runtimes)."""
    design = design_of(space, choice)
    steps = steps_of(space, design)
    model = compress(hub, steps, inputs=learnt.inputs, repair="none").model if steps else hub
    ready = folded(model)
    layers = {layer.name for layer in linear_layers(ready) if isinstance(layer, Linear)}
    plan = precision_plan(space, design, [node.name for node in ready.graph])
    int8 = [layer for layer in layers if plan.of(layer) == "int8"]
    with tempfile.TemporaryDirectory() as scratch:
        subject = subject_of(model, Path(scratch), samples=learnt)
        ranges = find_ranges(ready, subject, learnt, CalibrationSettings())
    view = simulated(ready, ranges, int8, runtime="onnxruntime", bits=8)
    tally = Tally(stitch.output)
    with torch.no_grad():
        for batch in stitch.batches:
            values = [batch.values[node] for node in stitch.flow.inputs]
            tally.add(batch.wanted, stitch.output.pick(view(*values)), batch.labels, len(values[0]))
    return tally.result()

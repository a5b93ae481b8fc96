"""Every compression method on a real network: size, multiply-adds, latency here, accuracy (docs/compress/results.md).

make bench PYTEST_ARGS="-k compression_table"

Prints a line of the table a method. Latency is the ratio of ``hwbench compare``: both networks in ONNX Runtime, batch
1, interleaved, beside the ratio of the original to itself.
"""

from __future__ import annotations

import json

import command
import numpy as np
import pytest
import real_tasks
from command import hwbench, shared_data

from hwbench.models.digits import load_digits_split

BUDGET = "8s"
SAMPLES = 1000  # to judge on
FIRST = ".*layer.*conv1.*"  # the first convolution of each block


def row(what, *arguments, net="resnet20", recipe=None, data=True, timed=True):
    return pytest.param((what, arguments, net, recipe, data, timed), id=what.replace(" ", "_"))


def given(**settings):
    return [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]


def pruned(criterion):
    """Zeros in the same places of the same graph: one row tells what they do to latency."""
    return row(f"prune {criterion}", "-m", "prune", *given(amount=0.5, criterion=criterion), timed=criterion == "l1")


def narrower(criterion):
    """On ResNet-20, which came with its BatchNorms folded; by their factors, on a network that has some."""
    settings, timed = given(amount=0.3, criterion=criterion), criterion in {"l1", "bn-gamma"}
    if criterion == "bn-gamma":
        return row(f"width {criterion}", "-m", "width", *settings, net="digits", timed=timed)
    return row(f"width {criterion}", "-m", "width", *settings, "--layers", FIRST, timed=timed)


def factored(form):
    return row(f"low-rank {form}", "-m", "low-rank", *given(amount=0.3, form=form))


def shared(bits, scope):
    return row(f"share {bits} bits {scope}", "-m", "share", *given(bits=bits, scope=scope), timed=False)


def step(method, **settings):
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    return "\n".join(["[[step]]", f'method = "{method}"', *lines, ""])


def of_decoder(what, *arguments, **others):
    return row(f"decoder {what}", *arguments, net="stories", **others)


CUT = step("width", amount=0.5, layers=FIRST)
PRUNE = step("prune", amount=0.7)
GENTLE = {"epochs": 3, "learning_rate": 0.001}
DECODER = (
    ("prune", "prune", {"amount": 0.3}),
    ("sparsegpt", "sparsegpt", {"amount": 0.5}),
    ("sparsegpt 2:4", "sparsegpt", {"pattern": "2:4"}),
    ("width columns", "width", {"amount": 0.2, "kinds": "columns"}),
    ("width heads", "width", {"amount": 0.2, "kinds": "heads"}),
    ("depth", "depth", {"count": 1}),
    ("gates", "gates", {"amount": 0.2, "epochs": 2}),
    ("low-rank", "low-rank", {"amount": 0.3, "data_aware": "true"}),
    ("share", "share", {"bits": 6}),
    ("quantize 8 bits", "quantize", {"weight_bits": 8}),
    ("quantize 4 bits", "quantize", {"weight_bits": 4}),
    ("quantize 4 bits trained", "quantize", {"weight_bits": 4, "qat_epochs": 3}),
    ("substitute", "substitute", {"by": "relu", "amount": 0.34}),
    ("simplify", "simplify", {}),
)
SHORT = {"epochs": 3, "learning_rate": 0.01, "flip": True}
ELEMENTS = ("random", "l1", "l2", "gradient", "taylor", "fisher", "weight-activation", "wanda", "obs")
SHARED = ((8, "layer"), (4, "layer"), (4, "channel"), (4, "position"), (4, "global"), (2, "channel"))
CHANNELS = ("random", "l1", "taylor", "fisher", "activation", "apoz", "entropy", "bn-gamma", "fpgm", "obs")
FLATTER = {"activations": "remove", "amount": 0.1, "move_padding": True}
ROWS = [
    *(pruned(criterion) for criterion in ELEMENTS),
    row("prune threshold", "-m", "prune", *given(threshold=0.02), timed=False),
    row("prune l1 global", "-m", "prune", *given(amount=0.5, scope="global"), timed=False),
    row("prune 2:4", "-m", "prune", *given(pattern="2:4"), timed=False),
    row("prune 16x1", "-m", "prune", *given(amount=0.5, pattern="16x1"), timed=False),
    row("prune 32x32", "-m", "prune", *given(amount=0.5, pattern="32x32"), timed=False),
    row("sparsegpt", "-m", "sparsegpt", *given(amount=0.5), timed=False),
    row("sparsegpt 2:4", "-m", "sparsegpt", *given(pattern="2:4"), timed=False),
    *(narrower(criterion) for criterion in CHANNELS),
    row("width unrepaired", "-m", "width", *given(amount=0.3), "--layers", FIRST, "--repair", "none", timed=False),
    row("width to steps", "-m", "width", *given(amount=0.3, widths="8,16,32,48"), "--layers", FIRST),
    row("width heads", "-m", "width", *given(amount=0.25, kinds="heads"), net="mini_lm"),
    row("width columns", "-m", "width", *given(amount=0.25, kinds="columns"), net="mini_lm"),
    row("depth", "-m", "depth", *given(count=2)),
    row("depth output", "-m", "depth", *given(count=2, criterion="output")),
    row("gates", "-m", "gates", *given(amount=0.3, epochs=2)),
    row("merge activations", recipe=step("simplify") + step("merge", **FLATTER), net="efficientnet"),
    row("finetune after width", recipe=CUT + step("finetune", **SHORT)),
    row("finetune features", recipe=CUT + step("finetune", features=".*conv2.*", **SHORT)),
    row("finetune attention", recipe=CUT + step("finetune", attention=".*conv2.*", **SHORT)),
    row("finetune labels", recipe=CUT + step("finetune", teacher=False, **SHORT)),
    row("soft-prune", recipe=step("soft-prune", amount=0.3, **SHORT)),
    row("gradual", recipe=step("gradual", amount=0.7, **SHORT), timed=False),
    row("sparsify channels", recipe=step("sparsify", target="channels", **SHORT) + CUT),
    row("sparsify weights", recipe=step("sparsify", target="weights", **SHORT) + PRUNE, timed=False),
    *(factored(form) for form in ("channel-svd", "spatial-svd", "tucker", "cp")),
    row("low-rank data-aware", "-m", "low-rank", *given(amount=0.3, form="channel-svd", data_aware="true")),
    *(shared(*each) for each in SHARED),
    *(row(f"quantize {bits} bits", "-m", "quantize", *given(weight_bits=bits), timed=False) for bits in (8, 4, 2)),
    row("quantize 2 bits trained", "-m", "quantize", *given(weight_bits=2, qat_epochs=3), timed=False),
    row("simplify", "-m", "simplify"),
    row("simplify attention", "-m", "simplify", net="mini_lm"),
    row("substitute separable", "-m", "substitute", *given(by="separable", multiplier=2, amount=0.3)),
    row("substitute gelu", "-m", "substitute", *given(by="gelu-tanh"), net="mini_lm"),
    row("substitute relu", "-m", "substitute", *given(by="relu", amount=0.34), net="mini_lm"),
    row("transfer, then width", recipe=step("transfer", backbone="frozen", epochs=3) + CUT, net="animals"),
    *(of_decoder(what, "-m", method, *given(**settings)) for what, method, settings in DECODER),
    *(of_decoder(f"gentle {one}", recipe=step(one, amount=0.3, **GENTLE), timed=False) for one in ("gradual",)),
    of_decoder("finetune after width", recipe=step("width", amount=0.2) + step("finetune", **GENTLE)),
]  # fmt: skip


DATA_OF = {"animals": "resnet20"}


def digits():
    """The trained network of the zoo, and scikit-learn's digits."""
    parts = load_digits_split()
    (x, _), (held_out, labels) = parts["train"], parts["test"]
    return real_tasks.Task(
        name="digits_cnn",
        spec="digits_cnn",
        calibration={"image": x},
        test={"image": held_out},
        score=len,
        unit="%",
        labels=labels,
        allowed="1pp",
    )


def write(path, inputs, labels=None):
    np.savez(path, **inputs, **({} if labels is None else {"labels": labels}))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder a network: its samples to learn from and to judge on."""
    made = {}

    def prepare(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            wanted = digits() if name == "digits" else real_tasks.task(DATA_OF.get(name, name), folder)
            write(folder / "train.npz", *learning(name, wanted))
            write(
                folder / "test.npz", {key: array[:SAMPLES] for key, array in wanted.test.items()}, judged(name, wanted)
            )
            made[name] = folder, wanted
        return made[name]

    return prepare


def learning(name, wanted):
    """All training images of CIFAR-10 that are here, with labels; elsewhere what int8 is calibrated on."""
    if name == "digits":
        return wanted.calibration, load_digits_split()["train"][1]
    if name == "stories":
        ids = wanted.calibration["ids"]
        return {"ids": ids}, real_tasks.next_tokens(ids)
    if name not in {"resnet20", "animals"}:
        return (wanted.calibration,)
    stored = np.load(shared_data("cifar10/calib_train.npz"))
    (entry,) = wanted.calibration
    inputs = {entry: real_tasks.imagenet_scale(stored["x"].transpose(0, 3, 1, 2))}
    return inputs, labels_of(name, stored["y"].astype(np.int64))


def labels_of(name, classes):
    """The classes of CIFAR-10; as a new task, whether it is an animal."""
    return ((classes > 1) & (classes < 8)).astype(np.int64) if name == "animals" else classes


def judged(name, wanted):
    labels = wanted.labels[: SAMPLES // 2] if wanted.kind == "embedding" else wanted.labels[:SAMPLES]
    return labels_of(name, labels)


@pytest.mark.parametrize("asked", ROWS)
def test_compression_table(benchmark, capsys, monkeypatch, prepared, asked, tmp_path):
    what, arguments, net, recipe, data, timed = asked
    monkeypatch.setattr(command, "LIMIT_S", 1800)
    folder, wanted = prepared(net)
    if recipe is not None:
        (tmp_path / "recipe.toml").write_text(recipe)
        arguments = ("--recipe", str(tmp_path / "recipe.toml"))
    learned = ("--data", "train.npz", "--samples", "1000") if data else ()
    out = str(tmp_path / "out")
    asked_for = (
        wanted.spec,
        *arguments,
        *learned,
        "--threads",
        "1",
        "--verify-data",
        "test.npz",
        "--task",
        wanted.kind,
    )
    run = benchmark.pedantic(
        hwbench, args=("compress", *asked_for, "-o", out, "--json", "-q"), kwargs={"cwd": folder}, rounds=1
    )
    assert run.returncode == 0, run.stderr
    beside = (
        "compare",
        wanted.spec,
        f"{out}/model.onnx",
        "-e",
        "onnxruntime",
        "--threads",
        "1",
        "--budget",
        BUDGET,
        "--batch-size",
        "1",
    )
    compared = hwbench(*beside, "--json", "-q", cwd=folder) if timed else None
    assert compared is None or compared.returncode == 0, compared.stderr
    told = line(what, wanted.name, json.loads(run.stdout), None if compared is None else json.loads(compared.stdout))
    with capsys.disabled():
        print(f"\n{told}")


def line(what, network, found, compared):
    """A line of the table."""
    before, after = (found["compressed"][when] for when in ("before", "after"))
    *whole, score = [each["scores"][0] for each in found["verification"]["found"]["rows"]]
    cells = [
        what,
        network,
        f"{after['parameters'] / before['parameters']:.2f}",
        f"{after['nonzero_parameters'] / before['nonzero_parameters']:.2f}",
        f"{after['packed_bytes'] / before['packed_bytes']:.2f}",
        f"{after['macs'] / before['macs']:.2f}",
        *latency(compared),
        shown(whole[0], "value") if whole else "another task",
        f"{shown(score, 'value')} [{shown(score, 'low')}, {shown(score, 'high')}]",
        str(score["n"]),
    ]
    return f"| {' | '.join(cells)} |"


def shown(score, which):
    """A share in percent; of text, perplexity."""
    entropy = score["name"].startswith("cross entropy")
    return f"{np.exp(score[which]):.2f}" if entropy else f"{100 * score[which]:.1f}"


def latency(compared):
    """The ratio with its interval, and that of the original to itself."""
    if compared is None:
        return "", ""
    verdict = next(each for each in compared["pairs"][0]["verdicts"] if each["metric"] == "latency")
    ratio, control = verdict["ratio"], verdict["control"]
    return f"{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]", f"{control['value']:.2f}"

"""What a plan leaves to build from: the files are read back by those that take them."""

from pathlib import Path
from types import SimpleNamespace

import made_costs
import pytest

from hwbench.build.plan import read_plan
from hwbench.cli.request import parse_shapes
from hwbench.compress.recipe import read_recipe
from hwbench.inventory import Away, find_or_describe
from hwbench.plan.designs import layers_left
from hwbench.planning_pipeline.written import _commands, place_of, precisions_text, recipe_text
from hwbench.records.compression import Step
from hwbench.records.planning import Design
from hwbench.records.quantization import PrecisionPlan

ODD = 'a "quoted" \\ name/ünï.conv 1'


def test_a_recipe_is_read_back(tmp_path):
    steps = (
        Step(method="depth", settings={"blocks": ["layer1.0", ODD]}),
        Step(method="width", settings={"keep": {ODD: 8, "b#2": 16}, "criterion": "l2"}),
        Step(method="low-rank", layers=r"a\.b|c", settings={"rank": 4, "data_aware": True, "share": 0.5}),
        Step(method="repair"),
    )
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_text(steps), encoding="utf-8")
    assert read_recipe(path) == steps


@pytest.mark.parametrize("layers", [{}, {ODD: "float", "b": "int8"}])
def test_precisions_are_read_back(tmp_path, layers):
    plan = PrecisionPlan(default="int8", floating="bf16", layers=layers, kernels={"c d": "vw16"} if layers else {})
    path = tmp_path / "precisions.toml"
    path.write_text(precisions_text(plan), encoding="utf-8")
    assert read_plan(path) == plan


def test_layers_that_are_gone_are_not_named():
    space = made_costs.space()
    every = layers_left(space, Design())
    (dropped, *_) = [site.about for site in space.sites if site.kind == "depth"]
    assert set(layers_left(space, Design(dropped=(dropped,)))) < set(every)
    low_ranked = space.clusters[0].name
    left = layers_left(space, Design(ranks={low_ranked: 2}))
    assert low_ranked not in left
    assert {f"{low_ranked}.down", f"{low_ranked}.up"} <= set(left)


def test_of_a_device_that_is_not_here_the_commands_are_for_the_device_itself():
    away = find_or_describe("nvidia-rtx-4090")
    assert isinstance(away, Away)
    assert place_of("tensorrt", away) == ("cuda:0", False)
    assert place_of("tensorrt", find_or_describe("jetson-orin-nano-super")) == ("jetson", False)
    assert place_of("onnxruntime", find_or_describe("raspberry-pi-5")) == ("cpu", False)
    assert place_of("onnxruntime", find_or_describe("cpu")) == ("cpu", True)


@pytest.mark.parametrize("steps", [(), (Step(method="repair"),)])
def test_commands_build_the_network_at_the_batch_and_the_shapes_that_were_planned(steps):
    shapes = {"a b": (8, 3, 32, 32), "mask": (8, 77)}
    request = SimpleNamespace(model="net.onnx", data="d.npz", batch_size=8, shapes=shapes)
    chosen = SimpleNamespace(steps=steps, precision=PrecisionPlan(default="float"))
    platform = SimpleNamespace(engine="onnxruntime")
    commands = [list(map(str, each)) for each in _commands(platform, chosen, request, "cpu", Path("there"))]
    assert [each[1] for each in commands] == [*(["compress"] if steps else []), "build"]
    for command in commands:
        texts = [command[at + 1] for at, word in enumerate(command) if word == "--shapes"]
        assert parse_shapes(texts) == shapes
    assert commands[-1][commands[-1].index("--batch-size") + 1] == "8"
    assert not any({"-b", "--batch-size"} & set(each) for each in commands[:-1]), "there it is that of statistics"
    plain = SimpleNamespace(model="net.onnx", data="d.npz", batch_size=None, shapes={})
    assert not any("--shapes" in each or "--batch-size" in each for each in _commands(
        platform, chosen, plain, "cpu", Path("there")
    ))  # fmt: skip


def test_what_builds_anywhere_is_built_here():
    pytest.importorskip("tensorrt_rtx")
    assert place_of("tensorrt-rtx", find_or_describe("nvidia-rtx-4090")) == ("nvidia-rtx-4090", True)

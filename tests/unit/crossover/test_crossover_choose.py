"""What pays, read from a table; tables kept, and modelled."""

from __future__ import annotations

import msgspec
import pytest
from sparse_examples import Strips, strips_kernel, with_strips

from hwbench.crossover import expected, saved
from hwbench.crossover.choose import profitable
from hwbench.crossover.expected import modelled
from hwbench.crossover.grid import Grid
from hwbench.devices import environment
from hwbench.devices.profiles import load_profiles
from hwbench.errors import StorageError, UsageError
from hwbench.records.base import Missing
from hwbench.records.crossover import CROSSOVER_SCHEMA, Cell, Contender, Crossover, LeftOut, Times
from hwbench.sparse.formats import FORMATS
from hwbench.sparse.manifest import Issue

ROLES = {"dense-fp16": ("dense", "fp16"), "dense-int8": ("dense", "int8"), "int4": ("kernel", "int4"),
         "int2": ("kernel", "int2"),
         "vw16": ("kernel", "fp16"), "s24": ("kernel", "fp16"), "torch-24": ("library", "fp16"),
         "control": ("control", "fp16")}  # fmt: skip


@pytest.fixture(autouse=True)
def _strips(monkeypatch, tmp_path):
    with_strips(monkeypatch)
    monkeypatch.setattr(expected, "kernels_sha256", lambda kernels: "1" * 64)
    monkeypatch.setenv("HWBENCH_HOME", str(tmp_path))


def cell(contender, us, sparsity=0.0, m=4096, k=4096, n=8):
    time = Missing(code="wrong_result", why="off") if us is None else Times(
        value_s=us / 1e6, low_s=us / 1e6, high_s=us / 1e6)  # fmt: skip
    return Cell(
        m=m,
        k=k,
        n=n,
        sparsity=sparsity,
        contender=contender,
        time=time,
        read_bytes=1.0,
        bound_s=1e-6,
        bound_by=Missing(code="measured", why=""),
        error=0.1,
    )


def table(*cells, basis="measured", control=1.02, **other):
    names = dict.fromkeys(cell.contender for cell in cells)
    return Crossover(**{
        "schema_version": CROSSOVER_SCHEMA, "created_at": "2026-01-01", "basis": basis, "device": "cuda:0",
        "title": "a GPU", "compute_capability": "9.0", "driver": "CUDA 13.0", "kernels_sha256": "0" * 64,
        "environment": environment.capture(), "memory_bytes_per_s": 1e12, "memory_from": "made up",
        "contenders": tuple(Contender(name=n, role=ROLES[n][0], values=ROLES[n][1], summary=n) for n in names),
        "cells": cells, "left_out": (), "control": control, "protocol": (), **other,
    })  # fmt: skip


def test_the_fastest_kernel_is_held_against_the_fastest_product_without_zeros():
    found = profitable(
        table(cell("dense-fp16", 10), cell("dense-int8", 6), cell("vw16", 5, 0.5), cell("s24", 8, 0.5),
              cell("torch-24", 1, 0.5), cell("control", 0.5), cell("vw16", 2, 0.9)),
        (4096, 4096), 8, 0.5,
    )  # fmt: skip
    assert [(one.contender, one.verdict) for one in found] == [("vw16", "gain"), ("s24", "no gain")]
    assert found[0].gain == pytest.approx(1.2)
    assert found[0].best_dense == "dense-int8"
    assert found[0].against == pytest.approx({"dense-fp16": 2.0, "dense-int8": 1.2})
    assert "dense-int8 is faster: 1.33 times" in found[1].why
    assert "measured at 4096x4096, N = 8" in found[0].why


def test_what_accuracy_does_not_bear_is_not_held_against_it():
    given = table(cell("dense-fp16", 10), cell("dense-int8", 4), cell("vw16", 5, 0.5))
    assert profitable(given, (4096, 4096), 8, 0.5)[0].verdict == "no gain"
    (choice,) = profitable(given, (4096, 4096), 8, 0.5, values=("fp16",))
    assert (choice.verdict, choice.best_dense, choice.gain) == ("gain", "dense-fp16", pytest.approx(2.0))


def test_our_own_kernels_of_few_bits_are_dense_too():
    (choice,) = profitable(table(cell("int4", 3), cell("vw16", 5, 0.5)), (4096, 4096), 8, 0.5)
    assert (choice.contender, choice.best_dense, choice.verdict) == ("vw16", "int4", "no gain")


def test_a_gain_within_the_noise_is_none():
    (choice,) = profitable(table(cell("dense-fp16", 10), cell("vw16", 9.9, 0.5)), (4096, 4096), 8, 0.5)
    assert choice.verdict == "no gain"
    assert "two timings of one product differ by 1.02 times" in choice.why


def test_a_product_stands_for_those_near_it_and_no_others():
    given = table(cell("dense-fp16", 10, n=8), cell("vw16", 5, 0.5, n=8), cell("dense-fp16", 10, n=1),
                  cell("vw16", 2, 0.5, n=1))  # fmt: skip
    assert profitable(given, (4096, 5000), 6, 0.5)[0].gain == pytest.approx(2.0)
    assert profitable(given, (5000, 4096), 1, 0.5)[0].gain == pytest.approx(5.0)
    assert profitable(given, (4096, 4096), 64, 0.5) == ()
    assert profitable(given, (512, 512), 8, 0.5) == ()
    assert profitable(given, (4096, 4096), 8, 0.8) == ()
    with pytest.raises(UsageError, match="a fraction"):
        profitable(given, (4096, 4096), 8, 50)


def test_a_measured_table_goes_before_a_model_and_a_wrong_kernel_is_no_choice():
    model = table(cell("dense-fp16", 10), cell("vw16", 1, 0.5), basis="model", control=Missing(code="model", why=""))
    real = table(cell("dense-fp16", 10), cell("vw16", 5, 0.5))
    assert profitable([model, real], (4096, 4096), 8, 0.5)[0].basis == "measured"
    wrong = table(cell("dense-fp16", 10), cell("vw16", None, 0.5))
    (choice,) = profitable([model, wrong], (4096, 4096), 8, 0.5)
    assert choice.basis == "model"
    assert "model, not measured" in choice.why


def test_a_table_is_found_again_for_the_same_gpu_driver_and_kernels():
    kept = table(cell("dense-fp16", 10))
    saved.keep(kept)
    assert saved.find("a GPU", "9.0", "CUDA 13.0", "0" * 64) == kept
    assert saved.find("a GPU", "9.0", "CUDA 13.1", "0" * 64) is None
    assert saved.find("a GPU", "9.0", "CUDA 13.0", "1" * 64) is None
    with pytest.raises(StorageError, match="only tables that were measured"):
        saved.keep(msgspec.structs.replace(kept, basis="model"))


def test_a_small_run_does_not_take_the_place_of_a_large_one():
    before = table(cell("dense-fp16", 10), cell("vw16", 5, 0.5), cell("vw16", 2, 0.5, n=1), control=1.1)
    after = table(cell("vw16", 4, 0.5), cell("s24", 3, 0.5))
    saved.keep(before)
    path = saved.keep(after)
    found = saved.find("a GPU", "9.0", "CUDA 13.0", "0" * 64)
    times = {(one.contender, one.n): one.time.value_s * 1e6 for one in found.cells}
    assert times == pytest.approx({("dense-fp16", 8): 10, ("vw16", 8): 4, ("vw16", 1): 2, ("s24", 8): 3})
    assert found.control == 1.1
    assert {one.name for one in found.contenders} == {"dense-fp16", "vw16", "s24"}
    path.write_text("torn")
    saved.keep(after)
    assert saved.find("a GPU", "9.0", "CUDA 13.0", "0" * 64) == after


def test_what_could_not_take_part_before_and_now_did_is_left_out_no_more():
    why = Missing(code="not_placed", why="no memory")
    out = [LeftOut(contender=name, m=4096, k=4096, n=8, sparsity=0.5, reason=why) for name in ("vw16", "s24")]
    before = table(cell("dense-fp16", 10), left_out=tuple(out))
    found = saved.joined(before, table(cell("vw16", 4, 0.5)))
    assert [one.contender for one in found.left_out] == ["s24"]


def test_a_kernel_is_offered_for_products_that_it_takes():
    given = table(cell("dense-fp16", 10), cell("vw16", 5, 0.5), cell("s24", 4, 0.5))
    assert {one.contender for one in profitable(given, (4096, 4096), 8, 0.5)} == {"vw16", "s24"}
    assert [one.contender for one in profitable(given, (4096, 4104), 8, 0.5)] == ["vw16"]  # no multiple of 64
    assert profitable(given, (4096, 4100), 8, 0.5) == ()  # nor of 8


def test_a_product_of_more_tiles_is_another():
    given = table(cell("dense-fp16", 10, n=32), cell("vw16", 5, 0.5, n=32))
    assert profitable(given, (4096, 4096), 20, 0.5) != ()
    assert profitable(given, (4096, 4096), 33, 0.5) == ()
    two = table(cell("dense-fp16", 10, n=32), cell("vw16", 5, 0.5, n=32), cell("dense-fp16", 30, n=48),
                cell("vw16", 10, 0.5, n=48))  # fmt: skip
    (choice,) = profitable(two, (4096, 4096), 33, 0.5)
    assert choice.gain == pytest.approx(3.0)  # of 48, not of 32, which is nearer


def test_two_bits_are_held_against_a_kernel_only_where_they_are_named():
    given = table(cell("dense-fp16", 10), cell("int2", 2), cell("vw16", 5, 0.5))
    assert profitable(given, (4096, 4096), 8, 0.5)[0].verdict == "gain"
    assert profitable(given, (4096, 4096), 8, 0.5, values=("fp16", "int2"))[0].verdict == "no gain"


def test_cells_name_contenders_that_are_there():
    with pytest.raises(ValueError, match="not there: vw16"):
        table(cell("vw16", 1, 0.5), contenders=())


PROFILE = load_profiles()["nvidia-h200"]


def model(grid, kernels=None, profile=PROFILE):
    kernels = {"strips": strips_kernel()} if kernels is None else kernels
    return modelled(profile, grid, kernels=kernels, environment=environment.capture())


def small_grid():
    return Grid(shapes=((4096, 4096),), rows=(1, 32), sparsities=(0.5, 0.9), formats=("strips",))


COUNTED = {"strips": strips_kernel(issue=tuple(Issue(tile_n=tile, per_weight=0.1) for tile in (8, 16, 32)))}


def test_the_model_is_that_of_the_kernels_and_says_what_it_is():
    found = model(small_grid(), COUNTED)
    assert found.basis == "model"
    assert "not measured" in found.protocol[0]
    at = {(cell.contender, cell.sparsity, cell.n): cell for cell in found.cells}
    strips = at["strips", 0.5, 1]
    size = Strips().bytes_of(4096, 4096, 0.5) + 2 * 2 * 4096
    assert strips.read_bytes == size
    assert strips.bound_s == size / 4.8e12
    assert strips.bound_by == "memory"
    assert strips.time.value_s == pytest.approx(size / 4.8e12 / 0.9 + 3e-6)
    assert strips.time.low_s < strips.time.value_s < strips.time.high_s
    dense = at["dense-fp16", 0.0, 1]
    assert dense.time.value_s == pytest.approx((2 * 4096**2 + 2 * 2 * 4096) / 4.8e12 / 0.9 + 3e-6)
    assert {name for name, _, _ in at} == {"dense-fp16", "dense-int8", "dense-int4", "strips"}


def test_a_mask_is_made_once_for_a_sparsity_and_none_for_what_no_kernel_takes(monkeypatch):
    made = []

    class Counting(Strips):
        def mask(self, scores, sparsity):
            made.append(sparsity)
            return super().mask(scores, sparsity)

    monkeypatch.setitem(FORMATS, "counting", Counting(name="counting"))
    kernels = {"counting": msgspec.structs.replace(COUNTED["strips"], format="counting")}
    refused = Grid(shapes=((4098, 4096),), rows=(1, 8), sparsities=(0.5, 0.9), formats=("counting",))
    assert {one.reason.code for one in model(refused, kernels).left_out} == {"outside_contract"}
    assert made == []
    grid = Grid(shapes=((4096, 4096), (8192, 4096)), rows=(1, 8), sparsities=(0.5, 0.9), formats=("counting",))
    assert len(model(grid, kernels).cells) == 4 * (3 + 2)
    assert sorted(made) == [0.5, 0.9]


def test_many_instructions_a_weight_take_the_gain_away_where_the_memory_is_fast():
    """16 lane instructions a weight: 132 x 128 x 1.98 GHz over 4.8 TB/s is 7.0 a byte of an H200; an RTX 4090: 41."""
    kernels = {"strips": strips_kernel(issue=(Issue(tile_n=32, per_weight=16.0),), rows_per_block=128)}
    grid = small_grid()
    grid = Grid(shapes=((16384, 16384),), rows=(32,), sparsities=grid.sparsities, formats=grid.formats)
    verdicts = {}
    for name in ("nvidia-h200", "nvidia-rtx-4090"):
        found = model(grid, kernels, load_profiles()[name])
        (choice,) = profitable(found, (16384, 16384), 32, 0.5, values=("fp16",), kernels=kernels)
        assert choice.basis == "model"
        verdicts[name] = (choice.verdict, next(cell.bound_by for cell in found.cells if cell.contender == "strips"))
    assert verdicts == {"nvidia-h200": ("no gain", "issue"), "nvidia-rtx-4090": ("gain", "memory")}


def test_what_the_model_cannot_have_is_left_out_with_the_reason():
    grid = Grid(shapes=((4096, 4096), (4098, 4096)), rows=(1,), sparsities=(0.5, 0.99), formats=("strips",))
    reasons = {(one.m, one.sparsity): one.reason.code for one in model(grid, COUNTED).left_out}
    assert reasons == {
        (4096, 0.99): "not_at_this_sparsity",
        (4098, 0.5): "outside_contract",
        (4098, 0.99): "outside_contract",
    }
    uncounted = model(small_grid()).left_out
    assert {one.reason.code for one in uncounted} == {"not_counted"}
    (none,) = model(small_grid(), {}).left_out
    assert (none.m, none.reason.code) == (None, "no_kernel")
    (old,) = model(small_grid(), {"strips": strips_kernel(archs=(100,))}).left_out
    assert old.reason.code == "not_for_gpu"
    with pytest.raises(UsageError, match="there is no model of Raspberry Pi 5"):
        model(small_grid(), profile=load_profiles()["raspberry-pi-5"])

"""Tables on a GPU that is not there: what is verified, in what order things are timed, what is left out and why."""

from __future__ import annotations

import types

import numpy as np
import pytest
from sparse_examples import Strips, strips_kernel, with_strips
from sparse_fake_cuda import SparseGpu, image, strips_block

from hwbench.crossover import measure as measuring
from hwbench.crossover import race as racing
from hwbench.crossover.baselines import Baseline
from hwbench.crossover.grid import Grid, Product, parse_shapes
from hwbench.crossover.kernels import Placed, pack_for, random_slab, random_x, repeated
from hwbench.crossover.measure import control_of, kernels_sha256, measure
from hwbench.crossover.race import Problem, copies_for, error_of, products_for, race
from hwbench.errors import EngineError, UsageError
from hwbench.records.base import Missing
from hwbench.records.crossover import Contender, Times
from hwbench.sparse.formats import FORMATS
from hwbench.sparse.launch import Loaded
from hwbench.sparse.manifest import Shape

NO_TORCH = Missing(code="not_asked", why="they were not asked for")


@pytest.fixture(autouse=True)
def _strips(monkeypatch):
    with_strips(monkeypatch)
    monkeypatch.setattr(measuring, "kernels_sha256", lambda kernels: "0" * 64)
    monkeypatch.setattr(racing, "_GRAPH_S", 0.0)  # the fake's kernels are slow to run, whatever its clock says
    monkeypatch.setattr(racing, "_LEAST_PRODUCTS", 2)


def gpu(blocks=strips_block, **other):
    return SparseGpu({"hwb_strips": blocks}, l2_bytes=2048, compute_capability=(9, 0), **other)


def grid(**other):
    return Grid(**{"shapes": ((16, 64),), "rows": (1, 9), "sparsities": (0.5, 0.75), "formats": ("strips",), **other})


def measured(cuda, asked=None, torch=NO_TORCH, kernel=None, **other):
    return measure(
        cuda, asked or grid(), kernels={"strips": kernel or strips_kernel()}, torch=torch, memory=(1e9, "made up"),
        rounds=5, seed=0, image=image, **other,
    )  # fmt: skip


class Stub:
    """A contender whose product takes a known time, on the fake's clock."""

    def __init__(self, cuda, name, seconds, *, role="dense", error=0.0, log=None):
        self.contender = Contender(name=name, role=role, values="fp16", summary="a stub")
        self.sparsity, self.allowed, self.copies, self.read_bytes = 0.0, 1.0, 3, 1e4
        self.cuda, self.seconds, self.error, self.log = cuda, seconds, error, log if log is not None else []
        self.weight = lambda: np.ones((4, 8), np.float32)
        self.products = None

    def result(self):
        return np.full((2, 4), 8.0) * (1 + self.error)

    def capture(self, products, stream):
        self.products = products

        def launch():
            from fake_cuda import Work

            self.log.append(self.contender.name)
            stream.put(Work(self.contender.name, lambda: None, products * self.seconds))

        return launch

    def close(self):
        self.log.append("closed")


def quiet(what):
    """Say nothing."""


PROBLEM = Problem(product=Product(4, 8, 2), x=np.ones((2, 8), np.float16))


def test_a_table_has_every_point_with_its_bound_and_error():
    cuda = gpu()
    found = measured(cuda)
    assert {(cell.n, cell.sparsity) for cell in found.cells} == {(1, 0.5), (1, 0.75), (9, 0.5), (9, 0.75)}
    for cell in found.cells:
        packed = pack_for("strips", random_slab(16, 64, 0), 16, cell.sparsity).whole()
        assert cell.read_bytes == packed.bytes + 2 * cell.n * 64 + 2 * cell.n * 16
        assert cell.bound_s == cell.read_bytes / 1e9
        assert 0 < cell.error <= 1
        assert cell.time.value_s == pytest.approx(1e-5)  # what a launch takes on the fake
        assert len(cell.time.samples_s) == 5
        assert cell.bound_share == pytest.approx(cell.bound_s / 1e-5)
    assert cuda.left() == 0
    assert found.contenders == (Contender(name="strips", role="kernel", values="fp16", summary="for tests"),)
    assert found.control.code == "no_control"
    assert found.warnings == ("no baselines: they were not asked for",)
    assert found.compute_capability == "9.0"


def test_the_cache_never_holds_the_weight_that_is_read_next():
    cuda = gpu()
    reads = []
    cuda.blocks["hwb_strips"] = lambda cuda, told, block, arguments: (
        reads.append(int(arguments[1])) if block == (0, 0) else None,
        strips_block(cuda, told, block, arguments),
    )
    measured(cuda, grid(rows=(1,), sparsities=(0.5,)))
    copies = len(set(reads))
    packed = pack_for("strips", random_slab(16, 64, 0), 16, 0.5).whole()
    assert copies * packed.bytes >= 5 * 2048
    timed = reads[1:]  # the first is the check
    for start in range(0, len(timed) - copies, copies):
        assert len(set(timed[start : start + copies])) == copies


@pytest.mark.parametrize(("l2", "weight", "copies"), [(60 << 20, 34 << 20, 9), (60 << 20, 1 << 30, 2), (1024, 100, 52)])
def test_copies_are_together_five_times_the_cache(l2, weight, copies):
    assert copies_for(l2, weight) == copies


def test_a_graph_goes_whole_turns_through_the_copies(monkeypatch):
    monkeypatch.undo()
    assert products_for(1e-5, 9) == 198  # 2 ms of 10 us: 200, in turns of 9
    assert products_for(1.0, 2) == 20
    assert products_for(1e-9, 7) == 399
    assert products_for(1e-3, 52) == 52


def test_a_wrong_kernel_is_not_timed():
    def wrong(cuda, told, block, arguments):
        strips_block(cuda, told, block, arguments)
        n, m = arguments[3], arguments[4]
        cuda.view(arguments[-1], np.float16, (n, m))[0, 0] += 1.0

    found = measured(gpu(wrong))
    assert {cell.time.code for cell in found.cells} == {"wrong_result"}
    assert all(cell.error > 1 for cell in found.cells)


def test_what_a_kernel_does_not_write_is_seen():
    def lazy(cuda, told, block, arguments):
        if block[0] != 2:
            strips_block(cuda, told, block, arguments)

    found = measured(gpu(lazy))
    assert {cell.error.code for cell in found.cells} == {"wrong_result"}
    assert "no number" in found.cells[0].time.why


def test_contenders_take_turns_and_are_warm_before_they_count():
    cuda, log = gpu(), []
    entries = [Stub(cuda, name, seconds, log=log) for name, seconds in (("a", 1e-6), ("b", 2e-6), ("c", 3e-6))]
    cells = race(cuda, entries, PROBLEM, memory_bytes_per_s=1e10, rounds=4, seed=1, watch=quiet)
    assert [cell.time.value_s for cell in cells] == pytest.approx([1e-6, 2e-6, 3e-6])
    assert log[::2] == log[1::2]  # each once untimed, right before it is timed
    rounds = [log[start : start + 6 : 2] for start in range(0, len(log), 6)]
    assert len(rounds) == 7  # three to warm up
    assert all(set(turn) == {"a", "b", "c"} for turn in rounds)
    assert len({tuple(turn) for turn in rounds}) > 1


def test_an_error_is_held_against_float64_and_what_the_contender_is_allowed():
    stub = Stub(gpu(), "a", 1e-6, error=2.0**-11)
    assert error_of(stub, PROBLEM) == pytest.approx(0.5, rel=1e-3)
    stub.allowed = 0.25
    assert error_of(stub, PROBLEM) == pytest.approx(2.0, rel=1e-3)
    stub.result = lambda: np.zeros((1, 4))
    assert error_of(stub, PROBLEM) == np.inf


def test_baselines_race_beside_the_kernels_and_the_control_tells_what_is_noise(monkeypatch):
    cuda = gpu(seconds=lambda told: 1e-6)
    seconds = {"dense-fp16": 3e-6, "control": 3.3e-6, "dense-int8": 1.5e-6}

    def entry(torch, baseline, problem, slab, sparsity):
        name = baseline.contender.name
        if name == "torch-24":
            return Missing(code="baseline_failed", why="torch-24: no cuSPARSELt")
        stub = Stub(cuda, name, seconds[name], role=baseline.contender.role)
        stub.weight = lambda: slab
        stub.result = lambda: problem.x.astype(np.float64) @ repeated(slab, problem.product.m).astype(np.float64).T
        return stub

    def told(name, role, **other):
        return Baseline(contender=Contender(name=name, role=role, values="fp16", summary=""), make=None, **other)

    monkeypatch.setattr(measuring, "entry_of", entry)
    monkeypatch.setattr(measuring, "BASELINES", (
        told("dense-fp16", "dense"), told("control", "control"), told("dense-int8", "dense", only_n=1),
        told("torch-24", "library", sparse=True),
    ))  # fmt: skip
    found = measured(cuda, torch=types.SimpleNamespace())
    assert found.control == pytest.approx(1.1)
    assert {cell.n for cell in found.cells if cell.contender == "dense-int8"} == {1}
    assert [(one.contender, one.n, one.sparsity) for one in found.left_out] == [
        ("torch-24", 1, 0.5), ("torch-24", 1, 0.75), ("torch-24", 9, 0.5), ("torch-24", 9, 0.75),
    ]  # fmt: skip
    assert any("control" in line for line in found.protocol)


def test_what_cannot_take_part_is_left_out_with_the_reason():
    found = measured(gpu(), grid(shapes=((16, 64), (18, 64)), sparsities=(0.5, 0.99)),
                     kernel=strips_kernel(shape=Shape(m_multiple=4, n_most=4)))  # fmt: skip
    told = {(one.m, one.n, one.sparsity): one.reason for one in found.left_out}
    assert told[18, None, 0.5].code == "outside_contract"
    assert told[16, None, 0.99].code == "not_at_this_sparsity"
    assert "9 rows of inputs are more than 4" in told[16, 9, 0.5].why
    assert {(cell.m, cell.n, cell.sparsity) for cell in found.cells} == {(16, 1, 0.5)}


def test_a_weight_there_is_no_memory_for_is_left_out():
    cuda = gpu(most_bytes=12000)
    with pytest.raises(UsageError, match="OUT_OF_MEMORY"):
        measured(cuda, grid(shapes=((256, 512),)))
    assert cuda.left() == 0


def test_nothing_to_measure_is_said():
    with pytest.raises(
        UsageError, match="nothing could be measured: there is no kernel that reads the format 'strips'"
    ):
        measured(gpu(), kernel=strips_kernel(format="other"))


def test_a_compiler_that_fails_leaves_the_kernel_out():
    def broken(variant, gpu):
        raise EngineError("nvcc refuses the kernel")

    cuda = gpu()
    with pytest.raises(UsageError, match="nvcc refuses the kernel"):
        measure(cuda, grid(), kernels={"strips": strips_kernel()}, torch=NO_TORCH, memory=(1e9, ""), rounds=1, seed=0,
                image=broken)  # fmt: skip
    assert cuda.left() == 0


def test_a_placed_weight_is_what_the_format_says():
    slab = random_slab(512, 64, 0)
    assert slab.shape == (256, 64)
    variant = pack_for("strips", slab, 512, 0.75)
    assert (variant.weight() != 0).mean() == pytest.approx(0.25)
    np.testing.assert_array_equal(Strips().unpack(variant.whole()), repeated(variant.weight(), 512))
    with Loaded(gpu(), image) as loaded:
        placed = Placed(loaded, variant, strips_kernel(), 0.75)
        assert placed.bytes == variant.whole().bytes
        assert all(array.base.nbytes <= 8 for one in placed.linears for array in one.packed.arrays.values())
        placed.close()
        assert loaded.cuda.alive() == 0


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "strips"])
@pytest.mark.parametrize("zero_rows", [(), (0, 40), (216, 256)])
def test_slabs_packed_once_are_what_packing_all_rows_gives(name, zero_rows):
    format_, slab = FORMATS[name], random_slab(256, 576, 3)
    if zero_rows:
        slab[slice(*zero_rows)] = 0
    sparsity = 0.0 if format_.values in {"int4", "int2"} else 0.5 if name.startswith("s24") else 0.77
    found = pack_for(name, slab, 768, sparsity).whole()
    mask = format_.mask(np.abs(slab), sparsity)
    wanted = format_.pack(repeated(slab, 768), repeated(mask, 768))
    assert (found.shape, found.scalars, list(found.arrays)) == (wanted.shape, wanted.scalars, list(wanted.arrays))
    for array in wanted.arrays:
        np.testing.assert_array_equal(found.arrays[array], wanted.arrays[array], err_msg=array)
        assert found.arrays[array].dtype == wanted.arrays[array].dtype


def test_rows_that_are_no_whole_slabs_are_packed_one_by_one():
    variant = pack_for("strips", random_slab(260, 64, 0), 260, 0.5)
    assert variant.whole().shape == (260, 64)
    assert variant.weight().shape == (260, 64)


def test_a_contender_that_cannot_be_captured_does_not_end_the_race():
    cuda = gpu()
    entries = [Stub(cuda, "a", 1e-6), Stub(cuda, "b", 1e-6), Stub(cuda, "c", 1e-6)]

    def fails(*_):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    entries[0].capture, entries[1].result = fails, fails
    cells = race(cuda, entries, PROBLEM, memory_bytes_per_s=1e10, rounds=4, seed=1, watch=quiet)
    assert [getattr(cell.time, "code", None) for cell in cells] == ["cannot_be_captured", "cannot_be_computed", None]
    assert cells[0].time.why == "a: operation not permitted when stream is capturing"
    assert cells[0].error == 0
    assert cells[1].error.code == "cannot_be_computed"
    assert cells[2].time.value_s == pytest.approx(1e-6)


def test_what_was_measured_is_handed_over_product_by_product_and_each_step_is_told():
    so_far, told = [], []
    measured(gpu(), keep=lambda raced: so_far.append(len(raced.cells)), watch=lambda what, fraction: told.append(what))
    assert so_far == [2, 4]
    assert "16x64: packing strips at 50%" in told
    assert "16x64, N = 9: strips" in told
    assert told.count("16x64, N = 9: timing") == 8  # every round


def test_the_grid_is_checked():
    assert parse_shapes(["4096x14336", "64x64", "64x64"]) == ((4096, 14336), (64, 64))
    for text in ("64", "64x", "0x4", "64*64"):
        with pytest.raises(UsageError, match="rows x columns"):
            parse_shapes([text])
    with pytest.raises(UsageError, match="no sparse format 'stripes'"):
        Grid(formats=("stripes",))
    with pytest.raises(UsageError, match="between 0 and 1"):
        Grid(sparsities=(1.5,))
    assert random_x(Product(4, 8, 3), 0).shape == (3, 8)


def test_the_hash_is_over_all_sources_of_the_kernels(monkeypatch):
    from hwbench.sparse.manifest import load_manifest

    monkeypatch.undo()
    kernels = load_manifest()
    if len(kernels) < 2:
        pytest.skip("fewer than two kernels")
    names = list(kernels)
    assert kernels_sha256(kernels) == kernels_sha256(dict(reversed(kernels.items())))
    assert kernels_sha256(kernels) != kernels_sha256({names[0]: kernels[names[0]]})


def test_no_control_without_two_timings():
    assert control_of([]).code == "no_control"


def test_an_interval_holds_its_value():
    with pytest.raises(ValueError, match="must hold the value"):
        Times(value_s=1.0, low_s=2.0, high_s=3.0)

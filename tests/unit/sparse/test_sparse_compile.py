"""Every kernel compiles within its budget and has the opcodes it was written for; the whole matrix is a benchmark's."""

import pytest

from hwbench.records.base import Missing
from hwbench.sparse.build import Compiled, compile_kernel
from hwbench.sparse.check import check_matrix, over_budget
from hwbench.sparse.compilers import Nvcc, find_compiler, find_tool
from hwbench.sparse.manifest import load_manifest
from hwbench.sparse.sass import inspect

KERNELS = load_manifest()
needs_compiler = pytest.mark.skipif(isinstance(find_compiler(), Missing), reason="there is no CUDA compiler here")
HAS_DISASSEMBLER = find_tool("nvdisasm") is not None


@needs_compiler
def test_kernels_keep_to_their_budget():
    """The largest tile of each, with an epilogue, on Hopper and the oldest GPU that it is for."""
    turing = [kernel for kernel in KERNELS.values() if 75 in kernel.archs]
    ampere = [kernel for kernel in KERNELS.values() if 75 not in kernel.archs]
    how = {"epilogues": ((True, "silu"),), "all_tiles": False, "sass": HAS_DISASSEMBLER}
    checked = check_matrix(turing, (75, 90), **how) + check_matrix(ampere, (80, 90), **how)
    assert {each.kernel for each in checked} == set(KERNELS)
    assert {each.name: each.broken for each in checked if each.broken} == {}


def used(**changes):
    sizes = {"registers": 40, "shared_bytes": 4096, "spill_bytes": 0, "stack_bytes": 0}
    return Compiled(
        kernel="gap4_mv", entry="hwb_gap4", arch=90, tile_n=1, kind="cubin", image=b"", compiler="", log="",
        ptx_isa=Missing(code="not_ptx", why="it is machine code"), **(sizes | changes),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({}, ()),
        ({"registers": 81}, ("81 registers, and 80 are allowed",)),
        (
            {"spill_bytes": 4, "stack_bytes": 8},
            ("4 bytes spilled, and 0 are allowed", "8 bytes of stack, and 0 are allowed"),
        ),
        ({"shared_bytes": 40000}, ("40000 bytes of shared memory, and 32896 are allowed",)),
    ],
)
def test_what_is_over_budget_is_said(changes, broken):
    assert over_budget(KERNELS["gap4_mv"], used(**changes)) == broken


@needs_compiler
def test_a_kernel_that_does_not_compile_is_in_the_matrix(tmp_path, monkeypatch):
    def refuse(kernel, **how):
        return compile_kernel(kernel, **(how | {"tile_n": 3}))

    monkeypatch.setattr("hwbench.sparse.check.compile_kernel", refuse)
    (checked,) = check_matrix([KERNELS["gap4_mv"]], [90], epilogues=((False, "none"),), all_tiles=False, cache=tmp_path)
    assert "no tile of 3" in checked.broken[0]
    assert isinstance(checked.registers, Missing)


@needs_compiler
@pytest.mark.skipif(not HAS_DISASSEMBLER, reason="there is no nvdisasm here")
@pytest.mark.parametrize(("name", "share"), [("int4_mm", 256), ("s24", 512), ("s24_wide", 512)])
def test_instructions_are_counted_as_the_readme_says(name, share, tmp_path):
    """Instructions of the main loop x 32 over the weights of a pass, which its matrix instructions tell."""
    kernel = KERNELS[name]
    issue = kernel.issue[0]
    made = compile_kernel(kernel, arch=90, tile_n=issue.tile_n, cache=tmp_path)
    main = max(inspect(made.image, made.entry).loops, key=lambda loop: loop.count("HMMA") / loop.instructions)
    weights = main.count("HMMA") / (issue.tile_n / 8) * share
    assert main.instructions * 32 / weights == pytest.approx(issue.per_weight, rel=0.1)


@needs_compiler
def test_s24_can_be_had_for_drivers_older_than_cuda_12_5(tmp_path):
    """PTX before 8.5 has no ordered metadata: plain mma.sp becomes the same instructions."""
    compiler = find_compiler()
    if not isinstance(compiler, Nvcc):
        pytest.skip("NVRTC has no assembler that could check a PTX")
    how = {"arch": 80, "tile_n": 8, "compiler": compiler, "cache": tmp_path}
    older = compile_kernel(KERNELS["s24"], kind="ptx", ptx_isa=(7, 8), **how)
    assert older.ptx_isa == (7, 8)
    newer = compile_kernel(KERNELS["s24"], kind="ptx", ptx_isa=(8, 5), **how)
    assert (older.image.count(b"mma.sp."), newer.image.count(b"mma.sp.")) == (newer.image.count(b"mma.sp::"), 0)
    assert newer.image.count(b"mma.sp::ordered_metadata") > 0

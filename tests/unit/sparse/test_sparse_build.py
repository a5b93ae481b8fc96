"""Compiling kernels: the cache, what is refused, the compilers; a toy kernel stands for ours."""

import shutil
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from hwbench.errors import EngineError, Unsupported, UsageError
from hwbench.records.base import Missing
from hwbench.sparse import build, compilers, sass
from hwbench.sparse.build import compile_kernel, included, newest_ptx, parse_arch
from hwbench.sparse.compilers import Nvcc, find_compiler, find_tool
from hwbench.sparse.manifest import SassRule, load_manifest

MANIFEST = """
schema_version = 1
[[kernel]]
name = "toy"
summary = "adds up"
source = "toy/kernel.cu"
entry = "hwb_toy"
format = "toy"
values = "fp16"
inputs = []
tile_n = [1, 2]
archs = [80, 90]
threads = 32
rows_per_block = 1
shared_bytes = 512
registers = 32
[kernel.shape]
n_most = 2
"""
SOURCE = """
#include "body.cuh"
extern "C" __global__ void hwb_toy(const uint4* x, int n, float* y) {
  __shared__ float sums[128];
  float sum = 0;
#pragma unroll 1
  for (int i = threadIdx.x; i < n; i += 32) sum += plus(x[i]);
  sums[threadIdx.x] = sum;
  __syncthreads();
  y[threadIdx.x] = sums[31 - threadIdx.x] * HWB_TILE_N + HWB_BIAS + HWB_ACT;
}
"""
LOG = """ptxas info    : Compiling entry function 'other' for 'sm_90'
ptxas info    : Used 99 registers
ptxas info    : Compiling entry function 'hwb_toy' for 'sm_90'
ptxas info    : Function properties for hwb_toy
    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 12 registers, used 1 barriers, 512 bytes smem
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    folder = tmp_path / "kernels"
    (folder / "toy").mkdir(parents=True)
    (folder / "include" / "hwb").mkdir(parents=True)
    (folder / "manifest.toml").write_text(MANIFEST)
    (folder / "toy" / "kernel.cu").write_text(SOURCE)
    (folder / "toy" / "body.cuh").write_text('#include "hwb/deep.cuh"\n')
    (folder / "include" / "hwb" / "deep.cuh").write_text("__device__ float plus(uint4 v) { return v.x + v.w; }\n")
    monkeypatch.setattr(build, "kernels_folder", lambda: folder)
    return folder


@pytest.fixture
def toy(folder):
    return load_manifest(folder)["toy"]


@dataclass
class FakeCompiler:
    version: str = "fake 1.0"
    archs: frozenset = frozenset({80, 90})
    image: bytes = b"image"
    log: str = LOG
    asked: list = field(default_factory=list)
    refusal: str | None = None

    def compile(self, source, *, arch, kind, options):
        self.asked.append((arch, kind, tuple(options)))
        return self.image, self.log

    def assembles(self, ptx, *, arch):
        return self.refusal


class TestCache:
    def compile(self, toy, tmp_path, compiler, **changes):
        settings = {"arch": 90, "tile_n": 1, **changes}
        return compile_kernel(toy, compiler=compiler, cache=tmp_path / "cache", **settings)

    def test_a_second_call_does_not_compile(self, toy, tmp_path):
        compiler = FakeCompiler()
        first = self.compile(toy, tmp_path, compiler)
        assert self.compile(toy, tmp_path, compiler) == first
        assert len(compiler.asked) == 1
        assert (first.registers, first.shared_bytes, first.spill_bytes, first.stack_bytes) == (12, 512, 8, 16)

    @pytest.mark.parametrize(
        "changes", [{"arch": 80}, {"tile_n": 2}, {"bias": True}, {"act": "silu"}], ids=lambda each: next(iter(each))
    )
    def test_another_setting_compiles(self, toy, tmp_path, changes):
        compiler = FakeCompiler()
        self.compile(toy, tmp_path, compiler)
        self.compile(toy, tmp_path, compiler, **changes)
        assert len(set(compiler.asked)) == 2

    @pytest.mark.parametrize("name", ["toy/kernel.cu", "toy/body.cuh", "include/hwb/deep.cuh"])
    def test_a_change_in_any_file_that_is_read_compiles(self, toy, folder, tmp_path, name):
        compiler = FakeCompiler()
        self.compile(toy, tmp_path, compiler)
        (folder / name).write_text((folder / name).read_text() + "// more\n")
        self.compile(toy, tmp_path, compiler)
        assert len(compiler.asked) == 2

    def test_another_compiler_compiles(self, toy, tmp_path):
        first, second = FakeCompiler(), FakeCompiler(version="fake 2.0")
        self.compile(toy, tmp_path, first)
        assert self.compile(toy, tmp_path, second).compiler == "fake 2.0"

    @pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
    def test_a_damaged_image_is_compiled_again(self, toy, tmp_path, damage):
        compiler = FakeCompiler()
        whole = self.compile(toy, tmp_path, compiler)
        (path,) = (tmp_path / "cache").iterdir()
        data = path.read_bytes()
        at = data.rindex(b"image")  # the key of the map, then its value
        flipped = data[:at] + b"imagf" + data[at + 5 :]
        path.write_bytes({"cut": data[:-5], "flip": flipped, "empty": b"", "other": b"\x80"}[damage])
        assert self.compile(toy, tmp_path, compiler) == whole
        assert len(compiler.asked) == 2
        assert path.read_bytes() == data

    def test_images_lie_in_the_users_folder(self, toy, tmp_path, monkeypatch):
        monkeypatch.setenv("HWBENCH_HOME", str(tmp_path / "home"))
        compile_kernel(toy, arch=90, tile_n=1, compiler=FakeCompiler())
        assert len(list((tmp_path / "home" / "kernels").iterdir())) == 1

    def test_headers_of_headers_are_found(self, folder):
        names = {path.name for path in included(folder / "toy" / "kernel.cu")}
        assert names == {"kernel.cu", "body.cuh", "deep.cuh"}


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "error", "why"),
        [
            ({"arch": 75, "tile_n": 1}, Unsupported, "not for sm_75; it is for sm_80, sm_90"),
            ({"arch": "hopper", "tile_n": 1}, UsageError, "'hopper' is no architecture"),
            ({"arch": 90, "tile_n": 3}, UsageError, "no tile of 3"),
            ({"arch": 90, "tile_n": 1, "act": "swish"}, UsageError, "no activation 'swish'"),
            ({"arch": 90, "tile_n": 1, "kind": "fatbin"}, UsageError, "neither cubin nor ptx"),
            ({"arch": 90, "tile_n": 1, "ptx_isa": (8, 0)}, UsageError, "machine code has none"),
        ],
    )
    def test_are_said(self, toy, tmp_path, settings, error, why):
        with pytest.raises(error, match=why):
            compile_kernel(toy, compiler=FakeCompiler(), cache=tmp_path, **settings)

    def test_a_compiler_that_does_not_know_the_gpu(self, toy, tmp_path):
        with pytest.raises(Unsupported, match=r"fake 1\.0 makes no code for sm_90; it knows sm_80"):
            compile_kernel(toy, arch=90, tile_n=1, compiler=FakeCompiler(archs=frozenset({80})), cache=tmp_path)

    def test_no_compiler_tells_what_to_install(self, toy, tmp_path, monkeypatch):
        monkeypatch.setattr(compilers, "find_tool", lambda name: None)
        monkeypatch.setattr(compilers, "_nvrtc", lambda: None)
        with pytest.raises(EngineError, match="pip install cuda-bindings nvidia-cuda-nvrtc"):
            compile_kernel(toy, arch=90, tile_n=1, cache=tmp_path)

    def test_nvcc_without_a_host_compiler_is_not_taken(self, tmp_path, monkeypatch):
        monkeypatch.setattr(compilers, "find_tool", lambda name: tmp_path / name)
        monkeypatch.setattr(compilers, "_nvrtc", lambda: None)
        monkeypatch.setattr(shutil, "which", lambda name: None)
        found = find_compiler()
        assert isinstance(found, Missing)
        assert found.code == "no_host_compiler"

    def test_an_assembler_that_said_nothing_of_the_kernel(self, toy, tmp_path):
        with pytest.raises(EngineError, match="said nothing of the kernel hwb_toy"):
            compile_kernel(
                toy, arch=90, tile_n=1, compiler=FakeCompiler(log=LOG.split("hwb_toy", maxsplit=1)[0]), cache=tmp_path
            )


class TestPtx:
    def ptx(self, toy, tmp_path, compiler, isa=None):
        return compile_kernel(toy, arch=90, tile_n=1, kind="ptx", ptx_isa=isa, compiler=compiler, cache=tmp_path)

    def test_its_version_is_told_and_nothing_is_said_of_registers(self, toy, tmp_path):
        compiled = self.ptx(toy, tmp_path, FakeCompiler(image=b"//\n.version 9.0\n.target sm_90\n"))
        assert compiled.ptx_isa == (9, 0)
        assert isinstance(compiled.registers, Missing)

    def test_an_older_one_is_marked_where_the_assembler_takes_it(self, toy, tmp_path):
        compiled = self.ptx(toy, tmp_path, FakeCompiler(image=b"//\n.version 9.0\n.target sm_90\n"), (8, 4))
        assert compiled.ptx_isa == (8, 4)
        assert compiled.image == b"//\n.version 8.4\n.target sm_90\n"

    def test_an_older_one_that_the_assembler_refuses_is_an_error(self, toy, tmp_path):
        compiler = FakeCompiler(image=b".version 9.0\n", refusal="needs 8.6")
        with pytest.raises(EngineError, match=r"needs 8\.6"):
            self.ptx(toy, tmp_path, compiler, (8, 4))

    def test_one_that_is_old_enough_stays(self, toy, tmp_path):
        assert self.ptx(toy, tmp_path, FakeCompiler(image=b".version 8.0\n"), (8, 4)).ptx_isa == (8, 0)

    @pytest.mark.parametrize(("driver", "isa"), [((13, 0), (9, 0)), ((12, 6), (8, 5)), ((11, 5), (7, 4))])
    def test_newest_that_a_driver_reads(self, driver, isa):
        assert newest_ptx(driver) == isa

    def test_drivers_before_ours_are_refused(self):
        with pytest.raises(UsageError, match=r"10\.2 is older"):
            newest_ptx((10, 2))


@pytest.mark.parametrize(
    ("text", "number"), [(90, 90), ("90", 90), ("sm_90", 90), ("9.0", 90), ("12.0", 120), ("sm_103", 103)]
)
def test_architectures_are_written_in_many_ways(text, number):
    assert parse_arch(text) == number


def nvcc():
    path = find_tool("nvcc")
    if path is None or not shutil.which("g++"):
        pytest.skip("there is no nvcc with a host compiler here")
    return Nvcc(path)


def nvrtc():
    compiler = compilers._nvrtc()
    if compiler is None:
        pytest.skip("there is no NVRTC here")
    return compiler


def test_nvrtc_is_never_given_a_byte_that_all_of_python_shares():
    """The binding writes into the ``bytes`` that it is given, and an empty log is one NUL: once, b" " became that."""
    given = []

    api = SimpleNamespace(
        nvrtcGetProgramLogSize=lambda program: (0, 1),
        nvrtcGetProgramLog=lambda program, log: given.append(log) or (0,),
    )
    assert compilers.Nvrtc(api)._read(None, "ProgramLog") == b"\0"
    assert len(given[0]) > 1


@pytest.mark.parametrize("find", [nvcc, nvrtc])
class TestRealCompilers:
    def test_machine_code_and_its_usage(self, toy, tmp_path, find):
        compiled = compile_kernel(toy, arch=90, tile_n=2, bias=True, compiler=find(), cache=tmp_path)
        assert compiled.image[:4] == b"\x7fELF"
        assert compiled.shared_bytes == 512
        assert 8 <= compiled.registers <= 32
        assert (compiled.spill_bytes, compiled.stack_bytes) == (0, 0)
        if find_tool("nvdisasm"):
            found = sass.inspect(compiled.image, compiled.entry)
            assert found.breaks(SassRule(required=("LDG", "STS", "LDS"), forbidden=("LDL", "STL"))) == ()
            assert any(loop.count("LDG") for loop in found.loops)

    def test_ptx(self, toy, tmp_path, find):
        compiled = compile_kernel(toy, arch=90, tile_n=1, kind="ptx", compiler=find(), cache=tmp_path)
        assert b".entry hwb_toy(" in compiled.image
        assert compiled.ptx_isa >= (7, 8)  # the first that knows sm_90

    def test_a_source_that_does_not_compile(self, toy, folder, tmp_path, find):
        (folder / "toy" / "kernel.cu").write_text("this is no C++;\n")
        with pytest.raises(EngineError, match=r"refuses the kernel: .*error"):
            compile_kernel(toy, arch=90, tile_n=1, compiler=find(), cache=tmp_path)


def test_older_ptx_is_checked_by_the_assembler(toy, tmp_path):
    compiler = nvcc()
    older = compile_kernel(toy, arch=90, tile_n=1, kind="ptx", ptx_isa=(8, 0), compiler=compiler, cache=tmp_path)
    assert older.ptx_isa == (8, 0)
    with pytest.raises(EngineError, match=r"PTX 7.7 was asked for"):  # sm_90 came with 7.8
        compile_kernel(toy, arch=90, tile_n=1, kind="ptx", ptx_isa=(7, 7), compiler=compiler, cache=tmp_path)

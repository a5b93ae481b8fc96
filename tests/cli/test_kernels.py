"""``hwbench kernels`` as it is typed, without a GPU."""

import json

import pytest
from command import failed, hwbench
from typer.testing import CliRunner

from hwbench.cli.main import app
from hwbench.cli.terminal import Terminal
from hwbench.errors import EngineError
from hwbench.files import read_record, write_record
from hwbench.records.base import Missing
from hwbench.records.crossover import CROSSOVER_SCHEMA, Cell, Contender, Crossover, Raced, Times
from hwbench.sparse.manifest import load_manifest

SMALL = ("--shape", "4096x4096", "--n", "1", "--n", "8", "--sparsity", "0.5", "--format", "vw16")


def test_the_table_of_a_gpu_that_is_not_here_says_so_on_every_line(tmp_path):
    run = hwbench("kernels", "-d", "nvidia-rtx-4090", *SMALL, "-o", "table.json", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "this is a model, and nothing was measured" in run.stderr
    table = read_record(tmp_path / "table.json", Crossover, schema=CROSSOVER_SCHEMA)
    assert table.basis == "model"
    assert {cell.contender for cell in table.cells} == {"vw16", "dense-fp16", "dense-int8", "dense-int4"}
    wide = hwbench("kernels", "-d", "nvidia-rtx-4090", *SMALL, cwd=tmp_path, env={"COLUMNS": "200"}).stdout
    lines = [line for line in wide.splitlines() if line.startswith(("1 ", "8 "))]
    assert len(lines) == len(table.cells)
    assert all("model, not measured" in line for line in lines)


def test_a_page_has_the_table_in_it(tmp_path):
    run = hwbench("kernels", "-d", "nvidia-h200", *SMALL, "-o", "table.html", "--json", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    page = (tmp_path / "table.html").read_text()
    assert json.loads(run.stdout)["basis"] == "model"
    assert "model, not measured" in page
    assert page.count('class="plot"') == 2


def test_what_is_no_gpu_is_refused(tmp_path):
    failed(hwbench("kernels", "-d", "cpu", cwd=tmp_path), 3, "the kernels are for NVIDIA GPUs")
    failed(hwbench("kernels", "-d", "raspberry-pi-5", cwd=tmp_path), 3, "the kernels are for NVIDIA GPUs")


def test_what_is_asked_for_is_checked(tmp_path):
    gpu = ("kernels", "-d", "nvidia-h200")
    failed(hwbench(*gpu, "--shape", "64", cwd=tmp_path), 2, "rows x columns of W")
    failed(hwbench(*gpu, "--sparsity", "50", cwd=tmp_path), 2, "between 0 and 1")
    failed(hwbench(*gpu, "--format", "csr", cwd=tmp_path), 2, "no sparse format 'csr'")
    failed(hwbench(*gpu, "-o", "table.csv", cwd=tmp_path), 2, "neither .json nor .html")


def test_a_check_takes_formats_and_a_gpu_and_refuses_what_it_has_no_use_for(tmp_path):
    words = "--check compiles, and has no use for"
    failed(hwbench("kernels", "--check", "--n", "3", "--rounds", "9", cwd=tmp_path), 2, f"{words} --n, --rounds")
    failed(hwbench("kernels", "--check", "-o", "table.json", cwd=tmp_path), 2, f"{words} --output")
    failed(hwbench("kernels", "--check", "--format", "csr", cwd=tmp_path), 2, "no sparse format 'csr'")
    failed(hwbench("kernels", "--check", "-d", "raspberry-pi-5", cwd=tmp_path), 3, "no compute capability")
    old = ("-d", "nvidia-t4", "--format", "s24")
    failed(hwbench("kernels", "--check", *old, cwd=tmp_path), 3, "s24, s24_wide cannot run on sm_75")


def test_a_check_compiles_what_is_named_for_the_gpu_that_is_named(monkeypatch):
    from hwbench.sparse import check

    asked = []

    def matrix(kernels, archs=None, **other):
        asked.append(([kernel.name for kernel in kernels], archs))
        other["watch"]("compiled one", 1.0)
        none = Missing(code="not_compiled", why="")
        return (check.Checked(kernel="gap4_mv", arch=89, tile_n=1, bias=False, act="none", registers=none,
                              shared_bytes=none, broken=("80 registers",)),)  # fmt: skip

    monkeypatch.setattr(check, "check_matrix", matrix)
    run = CliRunner().invoke(app, ["kernels", "--check", "--format", "gap4", "-d", "nvidia-rtx-4090", "--json"])
    assert run.exit_code == 1
    assert json.loads(run.stdout)["checked"][0]["broken"] == ["80 registers"]
    assert "compiled one" in run.stderr
    CliRunner().invoke(app, ["kernels", "--check", "--quiet"])
    assert asked[0] == (["gap4_mv"], [89])
    assert asked[1] == (list(load_manifest()), None)
    CliRunner().invoke(app, ["kernels", "--check", "--format", "vw16", "--quiet"])
    assert asked[2] == (["vw16", "vw16_wide"], None)


def test_what_was_measured_before_a_crash_is_kept(monkeypatch, tmp_path, capsys):
    from hwbench import children
    from hwbench.cli.kernels import _measured
    from hwbench.crossover import saved
    from hwbench.crossover.grid import Grid
    from hwbench.crossover.worker import SO_FAR
    from hwbench.inventory import find_or_describe

    none = Missing(code="measured", why="")
    cell = Cell(m=64, k=64, n=1, sparsity=0.5, contender="vw16", time=Times(value_s=1e-6, low_s=1e-6, high_s=1e-6),
                read_bytes=1.0, bound_s=1e-6, bound_by=none, error=0.1)  # fmt: skip
    so_far = Raced(
        compute_capability="9.0", driver="CUDA 13.0", kernels_sha256="0" * 64, memory_bytes_per_s=1e12,
        memory_from="made up", contenders=(Contender(name="vw16", role="kernel", values="fp16", summary=""),),
        cells=(cell,), left_out=(), control=none, protocol=(),
    )  # fmt: skip

    def crashes(module, job, result, *, folder, **other):
        folder.mkdir(parents=True)
        write_record(folder / SO_FAR, so_far)
        raise EngineError("timing kernels: the process crashed")

    monkeypatch.setenv("HWBENCH_HOME", str(tmp_path))
    monkeypatch.setattr(children, "run_child", crashes)
    target = find_or_describe("nvidia-h200")
    with pytest.raises(EngineError, match="crashed"):
        _measured(target, Grid(), Terminal(), rounds=5, baselines=True, seed=0, timeout_s=1)
    assert saved.find(target.device.title, "9.0", "CUDA 13.0", "0" * 64).cells == (cell,)
    assert "kept, with 1 products measured until then" in capsys.readouterr().err

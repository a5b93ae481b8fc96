"""What cannot be done says so in one clear message, with the documented exit code, and leaves no litter."""

import subprocess
import sys

import numpy as np
import pytest
from command import LIMIT_S, QUICK, command, engines, environment, failed, hwbench, result_of, shared_data, tiny_onnx

FACTORIES = """
import torch

def raises():
    raise ValueError("no weights today")

def shapeless():
    return torch.nn.Linear(3, 2)
"""


def profile(cwd, *arguments, **options):
    return hwbench("profile", *arguments, *QUICK, cwd=cwd, **options)


def test_no_such_file_lists_what_is_near(tmp_path):
    tiny_onnx(tmp_path / "tiny.onnx")
    failed(profile(tmp_path, "tinny.onnx"), 3, "no file 'tinny.onnx'", "tiny.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.onnx"]


def test_a_folder_is_no_model(tmp_path):
    (tmp_path / "net.onnx").mkdir()
    failed(profile(tmp_path, "net.onnx"), 3, "'net.onnx' is a folder")
    failed(profile(tmp_path, "."), 2, "'.' is a folder", "net.onnx")


def test_a_file_cut_short(tmp_path):
    whole = tiny_onnx(tmp_path / "tiny.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    run = profile(tmp_path, "cut.onnx", "-o", "out")
    failed(run, 3, "'cut.onnx' is not a valid ONNX file", "is the copy complete?")
    assert "log: out/model/log.txt" in run.stderr
    assert "Traceback" in (tmp_path / "out" / "model" / "log.txt").read_text()
    assert not (tmp_path / "out" / "result.json").exists()


def test_an_unknown_operator_is_named(tmp_path):
    tiny_onnx(tmp_path / "net.onnx", op="Relux")
    failed(profile(tmp_path, "net.onnx"), 3, "Relux", "'last'")


def test_a_wrong_shape_leaves_no_folder(tmp_path):
    tiny_onnx(tmp_path / "net.onnx")
    failed(profile(tmp_path, "net.onnx", "--shapes", "x:1x4x8x8"), 2, "axis 1 is fixed at 3", "Nx3x8x8")
    failed(profile(tmp_path, "net.onnx", "--shapes", "image:1x3x8x8"), 2, "'image', which is no input", "inputs: x")
    assert not (tmp_path / "hwbench-results").exists()


def test_input_data_that_does_not_fit(tmp_path):
    tiny_onnx(tmp_path / "net.onnx")
    np.savez(tmp_path / "x.npz", x=np.ones((2, 3, 9, 8), np.float32))
    failed(profile(tmp_path, "net.onnx", "--input-data", "x.npz"), 2)
    failed(profile(tmp_path, "net.onnx", "--input-data", "y.npz"), 2, "--input-data 'y.npz' cannot be read")


def test_nan_weights_are_a_warning_in_the_table(tmp_path, stubs):
    tiny_onnx(tmp_path / "net.onnx", weight=float("nan"))
    run = profile(tmp_path, "net.onnx", *engines("stub-good"), path=[stubs])
    assert run.returncode == 0, run.stderr
    assert "warning: weights hold NaN or infinity: w" in " ".join(run.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("raises", ["'net.py:raises' raised ValueError: no weights today"]),
        ("shapeless", ["gives no example inputs", "--shapes"]),
    ],
)
def test_a_factory_that_fails(source, parts, tmp_path):
    (tmp_path / "net.py").write_text(FACTORIES)
    code = 2 if source == "shapeless" else 3
    failed(profile(tmp_path, f"net.py:{source}"), code, *parts)


@pytest.mark.slow
def test_a_factory_file_with_a_syntax_error(tmp_path):
    (tmp_path / "net.py").write_text("def make(:\n")
    failed(profile(tmp_path, "net.py:make"), 3, "importing 'net.py' failed: SyntaxError")


@pytest.mark.parametrize(
    ("device", "parts"),
    [
        ("cuda:0", ["device 'cuda:0' is not here", "devices here: cpu"]),
        ("jetson-orin-nano-8gb", ["known kind of device (NVIDIA Jetson Orin Nano 8 GB)", "cpu"]),
        ("nonsense", ["device 'nonsense' is not here", "devices here: cpu"]),
    ],
)
def test_a_device_that_is_not_here(device, parts, tmp_path):
    run = hwbench("devices", "--json", cwd=tmp_path)
    if f'"{device}"' in run.stdout.partition('"absent"')[0]:
        pytest.skip("it is here")
    failed(profile(tmp_path, "digits_cnn", "-d", device), 3, *parts)


def test_an_unknown_profile_is_refused(tmp_path):
    failed(hwbench("devices", "warp-drive", cwd=tmp_path), 2, "'warp-drive'", "raspberry-pi-5")


def test_verbose_shows_where_an_error_came_from(tmp_path):
    run = profile(tmp_path, "nothing.onnx", "-v")
    assert run.returncode == 3
    assert "Traceback" in run.stderr
    assert "error: there is no file 'nothing.onnx'" in run.stderr


def test_output_is_a_file(tmp_path):
    tiny_onnx(tmp_path / "net.onnx")
    (tmp_path / "out").write_text("mine")
    failed(profile(tmp_path, "net.onnx", "-o", "out"), 2, "'out' is a file")
    assert (tmp_path / "out").read_text() == "mine"


def test_output_cannot_be_written(tmp_path):
    """A folder below a file: what nobody can write, root included."""
    tiny_onnx(tmp_path / "net.onnx")
    (tmp_path / "file").write_text("mine")
    failed(profile(tmp_path, "net.onnx", "-o", "file/out"), 3, "cannot write file/out")


def test_output_is_read_only(tmp_path, small_disk):
    folder = small_disk("size=1m,ro")
    tiny_onnx(tmp_path / "net.onnx")
    failed(profile(tmp_path, "net.onnx", "-o", folder / "out"), 3, "Read-only file system", str(folder))


def test_the_disk_is_full(tmp_path, small_disk):
    folder = small_disk("size=64k")
    tiny_onnx(tmp_path / "net.onnx")
    run = profile(tmp_path, "net.onnx", *engines("onnxruntime"), "-o", folder / "out")
    failed(run, 3, "No space left on device", str(folder))


def test_files_may_not_grow(tmp_path, stubs):
    """The same without root: a limit on the size of a file makes the result too large while it is written."""
    tiny_onnx(tmp_path / "net.onnx")
    arguments = command("profile", "net.onnx", "--iterations", "30000", "--warmup", "10ms", "--no-layers", "-o", "out")
    limited = (
        "import resource, os, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000)); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    run = subprocess.run(
        [sys.executable, "-c", limited, *arguments, *engines("stub-good")],
        cwd=tmp_path, env=environment(tmp_path / "home", path=[stubs]), capture_output=True, text=True,
        timeout=LIMIT_S, check=False,
    )  # fmt: skip
    failed(run, 3, "File too large")
    assert result_of(tmp_path / "out")["status"] == "partial"


@pytest.fixture
def small_disk(tmp_path):
    """Mount a small file system, where this process may."""
    if sys.platform != "linux":
        pytest.skip("mounts a Linux file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def mount(options):
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("this process may not mount; test_files_may_not_grow covers the same path")
        mounted.append(folder)
        return folder

    yield mount
    for path in mounted:
        subprocess.run(["umount", str(path)], check=True)


def test_a_real_file_cut_short(tmp_path):
    whole = shared_data("cifar10/resnet20.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) * 9 // 10])
    failed(profile(tmp_path, "cut.onnx"), 3, "'cut.onnx' is not a valid ONNX file")

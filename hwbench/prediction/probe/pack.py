"""Writes a probe pack: a folder that is copied to a device and needs nothing of hwbench there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import msgspec

from hwbench.errors import EngineError, StorageError
from hwbench.prediction.probe import program
from hwbench.prediction.probe.anchors import ANCHORS, PACK, Anchor
from hwbench.prediction.probe.onnx_files import write_onnx
from hwbench.prediction.probe.tflite_files import write_anchor

Target = Literal["onnx", "tflite", "torch"]
RUNTIMES: dict[Target, str] = {
    "onnx": "onnxruntime numpy",
    "tflite": "ai-edge-litert numpy",
    "torch": "torch numpy",
}
PROGRAM, ANDROID = "run_probe.py", "run_android.sh"

_PRECISIONS: dict[Target, tuple[str, ...]] = {
    "onnx": ("fp32", "fp16", "int8"),
    "tflite": ("fp32", "int8"),
    "torch": ("fp32", "fp16"),
}

_ANDROID = """#!/bin/sh
# Runs the anchors with LiteRT's benchmark_model over adb; nobody has tested this script on a phone yet.
#   BENCHMARK_MODEL=/path/to/android-arm64/benchmark_model sh run_android.sh [THREADS]
#   python3 run_probe.py --logs android-logs --threads THREADS -o probe.json
# Each anchor runs in a process of its own, ROUNDS times, in turns; each run gives one sample.
set -eu
THREADS=${1:-1}
ROUNDS=${ROUNDS:-9}
THERE=/data/local/tmp/hwbench-probe
HERE=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$HERE/android-logs"
adb shell mkdir -p $THERE
adb push "$BENCHMARK_MODEL" $THERE/benchmark_model
adb push "$HERE/anchors" $THERE/
adb shell chmod +x $THERE/benchmark_model
adb shell getprop ro.product.model > "$HERE/android-logs/device.txt"
adb shell getprop ro.board.platform >> "$HERE/android-logs/device.txt"
round=1
while [ "$round" -le "$ROUNDS" ]; do
  for file in "$HERE"/anchors/*.tflite; do
    name=$(basename "$file" .tflite)
    adb shell $THERE/benchmark_model --graph=$THERE/anchors/$name.tflite --num_threads="$THREADS" \\
      --warmup_runs=5 --warmup_min_secs=0 --num_runs=1 --min_secs=0 \\
      > "$HERE/android-logs/$name.$round.log" 2>&1 < /dev/null || true
  done
  round=$((round + 1))
done
"""

_README = """# hwbench probe pack

Copy this folder to the device and run, with Python 3.8 or newer and nothing but `{packages}` installed:

    python3 run_probe.py --threads 1 -o probe.json

It takes about 60 seconds (`--seconds`), sends nothing anywhere, and writes `probe.json`: the time of every anchor with
all samples, versions, the CPU's name, the governor, the memory. Bring the file back:

    hwbench probe read probe.json
    hwbench predict MODEL --device PROFILE --probe probe.json

Give the number of threads that the network will have. Let the device rest before, close other programs.
"""


def write_pack(folder: Path, target: Target, *, replace: bool = False) -> list[Path]:
    """Write a pack for one runtime and return its files.

    Raises:
        StorageError: the folder holds something already, or cannot be written.
        EngineError: the schema of ``.tflite`` files, which comes with LiteRT, is not installed.
    """
    if folder.exists() and any(folder.iterdir()) and not replace:
        raise StorageError(f"'{folder}' is not empty", hint="name another folder, or give --force")
    try:
        (folder / "anchors").mkdir(parents=True, exist_ok=True)
        entries = [_entry(anchor, target, folder) for anchor in ANCHORS]
        content = {"pack": PACK, "for": target, "anchors": entries}
        (folder / "pack.json").write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")
        shutil.copyfile(program.__file__, folder / PROGRAM)
        (folder / "README.md").write_text(_README.format(packages=RUNTIMES[target]), encoding="utf-8")
        if target == "tflite":
            (folder / ANDROID).write_text(_ANDROID, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"the pack cannot be written to '{folder}': {error.strerror or error}") from error
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _entry(anchor: Anchor, target: Target, folder: Path) -> dict[str, Any]:
    precisions = [name for name in _PRECISIONS[target] if name != "int8" or anchor.quantised]
    files: dict[str, str] = {}
    write = _writer(target)
    for precision in precisions:
        if write is not None:
            files[precision] = f"anchors/{anchor.name}-{precision}.{target}"
            write(anchor, precision, folder / files[precision])
    return {**asdict(anchor), "precisions": precisions, "files": files}


def _writer(target: Target) -> Callable[[Anchor, str, Path], None] | None:
    """Return what writes a file; torch builds anchors in place."""
    if target == "torch":
        return None
    return write_onnx if target == "onnx" else _tflite


def _tflite(anchor: Anchor, precision: str, path: Path) -> None:
    try:
        write_anchor(anchor, precision, path)
    except ImportError as error:
        raise EngineError(
            "writing .tflite files needs their schema, which comes with LiteRT", hint="pip install 'hwbench-nn[mobile]'"
        ) from error

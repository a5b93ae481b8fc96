"""What the kernels' pages predict: the model's numbers, written into the pages and held there by a test.

``python tests/kernel_predictions.py`` writes them anew, between the marks, after the model or a profile has changed.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from hwbench.devices.profiles import load_profiles
from hwbench.records.base import Missing
from hwbench.records.profile import DeviceProfile
from hwbench.sparse.formats import FORMATS
from hwbench.sparse.manifest import Kernel, fitting, kernels_folder, load_manifest, wide_of
from hwbench.sparse.select import Expected, Machine, expected, machine_of

GPUS = {
    "B200": "nvidia-b200", "H200": "nvidia-h200", "H100 SXM": "nvidia-h100-sxm", "A100 80 GB": "nvidia-a100-sxm-80gb",
    "RTX 3090": "nvidia-rtx-3090", "T4": "nvidia-t4", "A10": "nvidia-a10", "RTX 4090": "nvidia-rtx-4090",
    "L4": "nvidia-l4", "Orin Nano Super": "jetson-orin-nano-super",
}  # fmt: skip
SHAPE = (8192, 28672)
LARGE = ((4096, 14336), (8192, 8192), (8192, 28672), (28672, 8192))  # above 100 MB in fp16
ASKED = (
    ("s24", 0.5, 1.35),
    ("vw16", 0.5, 1.5),
    ("vw16", 0.7, 2.4),
    ("vw16", 0.9, 5.0),
)  # over dense fp16, N of 1 to 32
_MARKS = re.compile(r"(<!-- (\w+): made by tests/kernel_predictions.py -->\n).*?(<!-- end -->)", re.DOTALL)
_PREDICTED = ("H200", "H100 SXM", "A100 80 GB", "RTX 4090")
_WORDS = {"l2": "L2", "issue": "instructions", "shared": "shared memory", "tensor": "tensor cores"}


@functools.cache
def machine(gpu: str) -> Machine:
    """Return what the model knows of a GPU."""
    found = machine_of(_profiles()[GPUS[gpu]])
    assert not isinstance(found, Missing)
    return found


@functools.cache
def _profiles() -> dict[str, DeviceProfile]:
    return load_profiles()


def pages() -> list[Path]:
    """Return the pages of the kernels."""
    return sorted(kernels_folder().rglob("README.md"))


def filled(page: Path) -> str:
    """Return a page with what stands between its marks made anew."""
    makers = {"predictions": predictions, "instructions": instructions, "asked": asked}
    return _MARKS.sub(lambda found: found[1] + makers[found[2]](page.parent.name) + found[3], page.read_text("utf-8"))


def instructions(folder: str) -> str:
    """Return the lane instructions for a byte of memory."""
    head = "| GPU | lane instructions a byte | L2, taken to give |\n|---|---|---|\n"
    rows = ((name, machine(name)) for name in GPUS)
    return head + "".join(
        f"| {name} | {each.lane_instructions_per_byte:.1f} | {each.l2_bytes_per_s / 1e12:.2g} TB/s |\n"
        for name, each in rows
    )


def asked(folder: str) -> str:
    """Return the least that the model expects of 1 to 32 rows of X on shapes above 100 MB, beside what is asked."""
    every, rows = load_manifest(), (1, 8, 16, 32)
    heads = ["kernel", "zeros", "asked", "GPU", *(f"{m} x {k}" for m, k in LARGE)]
    lines = [heads, ["---"] * len(heads)]
    for name, sparsity, wanted in ASKED:
        kernel = every[name]
        for gpu in ("H200", "H100 SXM"):
            on, cells = machine(gpu), []
            for m, k in LARGE:
                gains = {}
                for n in rows:
                    taken = fitting(kernel, wide_of(every, kernel), m=m, n=n, multiprocessors=on.multiprocessors)
                    gains[n] = _expected(taken, n, sparsity, on, (m, k)).speedup["fp16"]
                short = [n for n in rows if gains[n] < wanted]
                least = f"{min(gains.values()):.2f}x"
                cells.append(f"{least}, less than asked at N = {', '.join(map(str, short))}" if short else least)
            lines.append([name, f"{sparsity:.0%}".replace("%", " %"), f"{wanted:g}x", gpu, *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def predictions(folder: str) -> str:
    """Return the gains that the model expects of the kernels of a folder over dense fp16."""
    every = load_manifest()
    wide = {each.name: wide_of(every, each) for each in every.values()}
    kernels = [each for each in every.values() if Path(each.source).parent.name == folder and each not in wide.values()]
    dense = kernels[0].format in {"int4", "int2"}
    sparsities = (0.0,) if dense else (0.5,) if folder == "s24" else (0.5, 0.7, 0.9)
    columns = ["gain"] if dense else [f"{sparsity:.0%}".replace("%", " %") for sparsity in sparsities]
    heads = ["kernel", "GPU", "N", *columns, "bound by", "measured"]
    lines = [heads, ["---"] * len(heads)]
    for kernel in kernels:
        for gpu in _PREDICTED:
            on = machine(gpu)
            for n in (1, 4) if kernel.shape.n_most < 8 else (1, 8, 16, 32):
                taken = fitting(kernel, wide[kernel.name], m=SHAPE[0], n=n, multiprocessors=on.multiprocessors)
                found = [_expected(taken, n, sparsity, on) for sparsity in sparsities]
                bounds = dict.fromkeys(_WORDS.get(each.bound, each.bound) for each in found)
                gains = [f"{each.speedup['fp16']:.2f}x" for each in found]
                lines.append([taken.name, gpu, str(n), *gains, ", then ".join(bounds), "not run"])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _expected(kernel: Kernel, n: int, sparsity: float, on: Machine, shape: tuple[int, int] = SHAPE) -> Expected:
    assert kernel.format in FORMATS
    found = expected(kernel, shape, n, sparsity, on)
    assert not isinstance(found, Missing)
    return found


if __name__ == "__main__":
    for page in pages():
        page.write_text(filled(page), "utf-8")

"""Measures the anchors of a probe pack on this device and writes probe.json. Needs numpy and one runtime, not hwbench.

    python run_probe.py                       # about 60 seconds, one thread
    python run_probe.py --threads 4 --seconds 120 -o probe.json
    python run_probe.py --logs android-logs   # what run_android.sh brought back

Python 3.8 or newer. All anchors are loaded and warmed up, then timed in turns, so that a change of the clock or another
program meets all of them alike. Every sample is kept. Nothing is sent anywhere.
"""

# mypy: ignore-errors

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import re
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
MOST_SAMPLES = 200
WARMUP = 5
ROUND_S = 0.02  # one turn of one anchor


def main(arguments=None):
    """Run, and return the exit code."""
    options = parse(arguments)
    with open(os.path.join(HERE, "pack.json"), encoding="utf-8") as file:
        pack = json.load(file)
    content = from_logs(pack, options) if options.logs else measure(pack, options)
    if not content["points"]:
        print("no anchor could be run:", file=sys.stderr)
        for name, why in content["failed"].items():
            print("  %s: %s" % (name, why), file=sys.stderr)
        return 1
    content["sha256"] = digest(content)
    with open(options.output, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, sort_keys=True)
    print("%d anchors measured, %d failed: %s" % (len(content["points"]), len(content["failed"]), options.output))
    return 0


def parse(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("-o", "--output", default="probe.json")
    parser.add_argument("--seconds", type=float, default=60.0, help="time to spend on timing, beside loading")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--provider", default=None, help="of ONNX Runtime; cpu or cuda of torch. Default: the CPU")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: one thread, on a busy machine")
    parser.add_argument("--only", default="", help="anchors whose name this regular expression finds")
    parser.add_argument("--logs", default=None, help="read the logs of run_android.sh and measure nothing")
    options = parser.parse_args(arguments)
    if options.clock == "cpu" and options.threads != 1:
        parser.error("--clock cpu is for one thread: the time of several is not what a user waits for")
    return options


def digest(content):
    """Return the hash over everything but itself."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def median(samples):
    """Return the median of nanoseconds, in seconds."""
    ordered = sorted(samples)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2e9


def empty(pack, runtime, version, provider, options):
    """Return the frame of a probe.json."""
    return {
        "schema_version": 1,
        "program": "hwbench-probe",
        "pack": pack["pack"],
        "runtime": runtime,
        "runtime_version": version,
        "provider": provider,
        "threads": options.threads,
        "clock": options.clock,
        "started_at": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "peak_rss_bytes": None,
        "facts": {},
        "points": [],
        "failed": {},
    }


def measure(pack, options):
    """Load every anchor, time them in turns, and return what is to be saved."""
    try:
        loader = {"onnx": OnnxRuntime, "tflite": LiteRt, "torch": Torch}[pack["for"]](options)
    except ImportError as error:
        print("this pack needs a runtime that is not installed: %s" % error, file=sys.stderr)
        sys.exit(2)
    content = empty(pack, loader.name, loader.version, loader.provider, options)
    runs = {}
    for anchor in pack["anchors"]:
        for precision in anchor["precisions"]:
            key = (anchor["name"], precision)
            if precision in loader.senseless or not re.search(options.only, anchor["name"]):
                continue
            try:
                run = loader.load(anchor, precision)
                for _ in range(WARMUP):
                    run()
                runs[key] = run
            except Exception as error:  # noqa: BLE001 - whatever a foreign runtime says is kept
                content["failed"]["%s %s" % key] = ("%s: %s" % (type(error).__name__, error))[:300]
    samples = turns(runs, options)
    for (name, precision), taken in samples.items():
        point = {"anchor": name, "precision": precision, "warmup": WARMUP, "samples_ns": taken}
        content["points"].append(dict(point, median_s=median(taken)))
    content["facts"] = facts()
    content["peak_rss_bytes"] = peak_rss()
    return content


def turns(runs, options):
    """Time all anchors in turns until the time is spent; at least three samples each."""
    clock = time.perf_counter_ns if options.clock == "wall" else time.process_time_ns
    samples = {key: [] for key in runs}
    end = time.perf_counter() + options.seconds
    rounds = 0
    while runs and (rounds < 3 or time.perf_counter() < end):
        for key, run in runs.items():
            until = time.perf_counter() + ROUND_S
            while True:
                started = clock()
                run()
                took = clock() - started
                if took > 0 and len(samples[key]) < MOST_SAMPLES:
                    samples[key].append(took)
                if time.perf_counter() >= until:
                    break
        rounds += 1
        if min(len(taken) for taken in samples.values()) >= MOST_SAMPLES:
            break
    return samples


class OnnxRuntime:
    """Anchors as ONNX files, under ONNX Runtime."""

    name = "onnxruntime"

    def __init__(self, options):
        import onnxruntime

        self.module = onnxruntime
        self.version = onnxruntime.__version__
        self.provider = options.provider or "CPUExecutionProvider"
        self.senseless = {"fp16"} if self.provider == "CPUExecutionProvider" else set()  # computed in fp32 there
        self.threads = options.threads

    def load(self, anchor, precision):
        """Return a function that runs the anchor once."""
        import numpy

        options = self.module.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        path = os.path.join(HERE, anchor["files"][precision])
        session = self.module.InferenceSession(path, options, providers=[self.provider])
        if session.get_providers()[0] != self.provider:
            raise RuntimeError("%s is not available here" % self.provider)
        entry = session.get_inputs()[0]
        kind = numpy.float16 if "float16" in entry.type else numpy.float32
        feed = {entry.name: numpy.random.RandomState(1).standard_normal(entry.shape).astype(kind)}
        return lambda: session.run(None, feed)


class LiteRt:
    """Anchors as .tflite files, under LiteRT or tflite-runtime with XNNPACK."""

    name = "litert"
    provider = "xnnpack"
    senseless = frozenset()

    def __init__(self, options):
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            from tflite_runtime.interpreter import Interpreter
        self.interpreter = Interpreter
        self.version = package_version("ai-edge-litert", "tflite-runtime")
        self.threads = options.threads

    def load(self, anchor, precision):
        """Return a function that runs the anchor once."""
        import numpy

        made = self.interpreter(os.path.join(HERE, anchor["files"][precision]), num_threads=self.threads)
        made.allocate_tensors()
        entry = made.get_input_details()[0]
        values = numpy.random.RandomState(1).standard_normal(tuple(entry["shape"])).astype(numpy.float32)
        made.set_tensor(entry["index"], values)
        return made.invoke


class Torch:
    """Anchors built in place from their description, in eager torch, on the CPU or on CUDA."""

    name = "torch-eager"

    def __init__(self, options):
        import torch

        self.torch = torch
        self.version = torch.__version__
        self.provider = options.provider or ("cuda" if torch.cuda.is_available() else "cpu")
        self.senseless = {"fp16"} if self.provider == "cpu" else set()
        torch.set_num_threads(options.threads)

    def load(self, anchor, precision):
        """Return a function that runs the anchor once."""
        torch = self.torch
        kind = {"fp32": torch.float32, "fp16": torch.float16}[precision]
        size, channels = anchor["size"], anchor["channels"]
        shape = (1, channels, size, size) if size else (anchor["rows"], channels)
        x = torch.randn(shape, device=self.provider, dtype=kind)
        layers = []
        for step in anchor["steps"]:
            layer, channels = self.layer(step, channels)
            layers.append(layer.to(self.provider, kind).eval() if layer is not None else None)

        def run():
            with torch.inference_mode():
                past = [x]
                for step, layer in zip(anchor["steps"], layers):
                    past.append(self.apply(step, layer, past))
            if self.provider != "cpu":
                torch.cuda.synchronize()

        return run

    def layer(self, step, channels):
        """Return the module of a step, if it has one, and the channels behind it."""
        nn = self.torch.nn
        if step["op"] in {"conv", "depthwise"}:
            deep = step["op"] == "depthwise"
            out = channels if deep else step["channels"]
            groups = channels if deep else 1
            padding = step["kernel"] // 2
            return nn.Conv2d(channels, out, step["kernel"], step["stride"], padding, groups=groups), out
        if step["op"] == "dense":
            return nn.Linear(channels, step["channels"]), step["channels"]
        return None, channels

    def apply(self, step, layer, past):
        """Return what a step makes of the results so far."""
        functional = self.torch.nn.functional
        op, x = step["op"], past[-1]
        if layer is not None:
            y = layer(x)
        elif op == "add":
            y = x + past[-step["back"]]
        elif op == "mean":
            y = x.mean(dim=(2, 3))
        else:
            y = functional.silu(x) if op == "swish" else functional.softmax(x, dim=-1)
        return functional.relu(y) if step["relu"] else y


def from_logs(pack, options):
    """Return what the logs of run_android.sh hold: one run of benchmark_model a sample."""
    samples, versions = {}, set()
    for file in sorted(os.listdir(options.logs)):
        match = re.match(r"(?P<anchor>.+)-(?P<precision>fp32|fp16|int8)\.(?P<round>\d+)\.log$", file)
        if match is None:
            continue
        with open(os.path.join(options.logs, file), encoding="utf-8", errors="replace") as opened:
            text = opened.read()
        taken = re.findall(r"Inference \(avg\):\s*([0-9.eE+-]+)", text)
        if taken and float(taken[-1]) > 0:
            key = (match.group("anchor"), match.group("precision"))
            samples.setdefault(key, []).append(round(float(taken[-1]) * 1000))
        versions.update(re.findall(r"(?:TFLite|LiteRT) version:?\s*(\S+)", text))
    content = empty(pack, "litert", ",".join(sorted(versions)) or "unknown", "benchmark_model", options)
    for (name, precision), found in samples.items():
        if len(found) < 3:
            content["failed"]["%s %s" % (name, precision)] = "fewer than three runs"
            continue
        point = {"anchor": name, "precision": precision, "warmup": WARMUP, "samples_ns": found}
        content["points"].append(dict(point, median_s=median(found)))
    told = os.path.join(options.logs, "device.txt")
    content["facts"] = {"android": read(told)} if os.path.exists(told) else {}
    return content


def facts():
    """Return what the system tells of itself."""
    found = {
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": package_version("numpy"),
        "cpus": str(os.cpu_count()),
        "cpu_model": cpu_model(),
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "max_khz": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq"),
        "device_tree": read("/proc/device-tree/model"),
        "memory": (re.findall(r"MemTotal:\s*(.+)", read("/proc/meminfo")) or [""])[0],
        "load": " ".join("%.2f" % value for value in os.getloadavg()) if hasattr(os, "getloadavg") else "",
    }
    return {key: value for key, value in found.items() if value}


def cpu_model():
    """Return the name of the CPU, or the parts of an Arm one."""
    text = read("/proc/cpuinfo")
    names = re.findall(r"(?:model name|Hardware)\s*:\s*(.+)", text)
    parts = sorted(set(re.findall(r"CPU part\s*:\s*(.+)", text)))
    return names[0] if names else " ".join(parts) or platform.processor()


def read(path):
    """Return a small text file without blanks and zeros at its ends, or nothing."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(20000).strip("\x00 \n\t")
    except OSError:
        return ""


def package_version(*names):
    """Return the version of the first of some packages that is installed."""
    from importlib import metadata

    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def peak_rss():
    """Return the largest memory that the process had, in bytes."""
    try:
        import resource
    except ImportError:
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


if __name__ == "__main__":
    sys.exit(main())

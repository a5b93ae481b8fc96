"""A module with the face of TensorRT's Python API, of any version: what is set on it can be looked at.

Which names a version has is what NVIDIA's API reference and migration guides say of it; the 11.4 and RTX ones are held
against the real bindings in tests/unit/engines/test_tensorrt_names.py.
"""

from __future__ import annotations

import enum
from pathlib import Path
from types import SimpleNamespace

_FLAGS_8 = (
    "FP16", "INT8", "DEBUG", "GPU_FALLBACK", "REFIT", "DISABLE_TIMING_CACHE", "TF32", "SPARSE_WEIGHTS",
    "OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS",
)  # fmt: skip
_FLAGS_8_6 = (*_FLAGS_8, "FP8", "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME")
_FLAGS_10 = (*_FLAGS_8_6, "BF16", "STRIP_PLAN", "REFIT_IDENTICAL", "WEIGHT_STREAMING", "EDITABLE_TIMING_CACHE")
_WEAK = {"FP16", "INT8", "BF16", "FP8", "OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"}
_FLAGS_11 = tuple(name for name in _FLAGS_10 if name not in _WEAK)


def flags_of(version: tuple[int, int]) -> tuple[str, ...]:
    if version < (8, 6):
        return _FLAGS_8
    return _FLAGS_8_6 if version < (10, 0) else _FLAGS_10 if version < (11, 0) else _FLAGS_11


def _enum(name: str, members: tuple[str, ...]) -> type[enum.IntEnum]:
    return enum.IntEnum(name, {member: number for number, member in enumerate(members)})


class Tensor:
    def __init__(self, name, dtype, shape=(1,)):
        self.name, self.dtype, self.shape = name, dtype, shape


class Layer:
    """A layer of the network; ``precision`` and ``set_output_type`` note what they are told."""

    def __init__(self, name, kind, inputs, outputs):
        self.name, self.type, self.inputs, self.outputs = name, kind, inputs, outputs
        self.precision = None
        self.output_types = {}

    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = property(lambda self: len(self.outputs))

    def get_input(self, number):
        return self.inputs[number]

    def get_output(self, number):
        return self.outputs[number]

    def set_output_type(self, number, dtype):
        self.output_types[number] = dtype


class Network:
    def __init__(self, bits, layers, inputs):
        self.bits, self.layers, self.inputs = bits, layers, inputs

    num_layers = property(lambda self: len(self.layers))
    num_inputs = property(lambda self: len(self.inputs))

    def get_layer(self, number):
        return self.layers[number]

    def get_input(self, number):
        return self.inputs[number]


class Config:
    """A builder's configuration. TF32 is set from the start, as in TensorRT."""

    def __init__(self, trt):
        self.trt, self.flags = trt, 1 << int(trt.BuilderFlag.TF32)
        self.profiling_verbosity, self.avg_timing_iterations = trt.ProfilingVerbosity.LAYER_NAMES_ONLY, 1
        self.pools, self.profiles, self.cache, self.cache_given = {}, [], None, None
        self.default_device_type, self.DLA_core = trt.DeviceType.GPU, -1
        if trt.number >= (8, 6):
            self.builder_optimization_level, self.max_aux_streams = 3, -1
            self.hardware_compatibility_level = trt.HardwareCompatibilityLevel.NONE

    def set_flag(self, flag):
        self.flags |= 1 << int(flag)

    def clear_flag(self, flag):
        self.flags &= ~(1 << int(flag))

    def set_memory_pool_limit(self, pool, size):
        self.pools[pool] = size

    def get_memory_pool_limit(self, pool):
        return self.pools.get(pool, 1 << 30)

    def create_timing_cache(self, data):
        self.cache_given = data
        return SimpleNamespace(serialize=lambda: data + b"+")

    def set_timing_cache(self, cache, ignore_mismatch):
        assert ignore_mismatch is False
        self.cache = cache

    def get_timing_cache(self):
        return self.cache

    def add_optimization_profile(self, profile):
        self.profiles.append(profile)

    def can_run_on_DLA(self, layer):  # noqa: N802 - TensorRT's spelling
        return layer.name in self.trt.on_dla


class Builder:
    def __init__(self, logger):
        self.logger = logger

    def create_network(self, bits):
        trt = self.trt
        trt.network = Network(bits, trt.layers, trt.inputs)
        return trt.network

    def create_builder_config(self):
        self.trt.config = Config(self.trt)
        return self.trt.config

    def create_optimization_profile(self):
        shapes = {}
        return SimpleNamespace(set_shape=lambda name, *three: shapes.update({name: three}), shapes=shapes)

    @property
    def num_DLA_cores(self):  # noqa: N802 - TensorRT's spelling
        return self.trt.dla_cores

    def build_serialized_network(self, network, config):
        for severity, text in self.trt.says:
            self.logger.log(self.trt.ILogger.Severity[severity], text)
        return self.trt.plan if self.trt.plan is None or self.trt.plan else Path(self.trt.parsed).read_bytes()


class Parser:
    num_errors = 1

    def __init__(self, network, logger):
        self.network = network

    def parse_from_file(self, path):
        self.trt.parsed = path
        return self.trt.parses

    def get_error(self, number):
        return SimpleNamespace(desc=lambda: "no such\n operator", node=lambda: 3)


def fake_tensorrt(version: str = "10.3.0") -> SimpleNamespace:
    """Return a module of that version, which builds the plan ``b"plan"`` of whatever network it is given.

    With ``plan = b""`` the plan is the graph itself, as it was given to the parser.
    """
    major, minor = (int(part) for part in version.split(".")[:2])
    number = (major, minor)
    trt = SimpleNamespace(
        __name__="absent_tensorrt",  # without plugins
        __version__=version, number=number, layers=[], inputs=[], on_dla=set(), dla_cores=0, says=[], plan=b"plan",
        parses=True, network=None, config=None,
    )  # fmt: skip
    trt.BuilderFlag = _enum("BuilderFlag", flags_of(number))
    creation = ("EXPLICIT_BATCH",) if number < (10, 0) else ("EXPLICIT_BATCH", "STRONGLY_TYPED")
    trt.NetworkDefinitionCreationFlag = _enum("Creation", creation if major < 11 else ("STRONGLY_TYPED",))
    trt.ProfilingVerbosity = _enum("Verbosity", ("LAYER_NAMES_ONLY", "NONE", "DETAILED"))
    trt.MemoryPoolType = _enum("Pool", ("WORKSPACE",))
    trt.DeviceType = _enum("DeviceType", ("GPU", "DLA"))
    trt.DataType = _enum("DataType", ("FLOAT", "HALF", "INT8", "INT32", "BOOL"))
    trt.LayerType = _enum("LayerType", ("CONVOLUTION", "ACTIVATION", "QUANTIZE", "DEQUANTIZE", "CONSTANT", "SHAPE"))
    if number >= (8, 6):
        levels = ("NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY") if major >= 10 else ("NONE", "AMPERE_PLUS")
        trt.HardwareCompatibilityLevel = _enum("Level", levels)
    severity = _enum("Severity", ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"))
    trt.ILogger = type("ILogger", (), {"Severity": severity, "__init__": lambda self: None})
    trt.Builder = type("Builder", (Builder,), {"trt": trt})
    trt.OnnxParser = type("OnnxParser", (Parser,), {"trt": trt})
    return trt

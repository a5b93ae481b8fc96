import pytest

from hwbench.engines.edge import (
    installed,
    refuse_nvidia_only,
    require_built,
    require_precision,
    threads_per_stream,
    translated,
)
from hwbench.errors import EngineError, Unsupported, UsageError
from hwbench.records.quantization import PrecisionPlan


def translate(error):
    with pytest.raises(EngineError) as raised, translated("ONNX Runtime refused the model"):
        raise error
    assert raised.value.__cause__ is error
    return raised.value.message


def test_what_only_tensorrt_is_asked_for():
    refuse_nvidia_only("engine", PrecisionPlan(default="int8", floating="fp16", layers={"a": "float"}))
    with pytest.raises(Unsupported, match="engine cannot build in fp8, tf32: no CPU has it"):
        refuse_nvidia_only("engine", PrecisionPlan(default="int8", floating="tf32", layers={"a": "fp8"}))


class TestTranslated:
    def test_the_runtimes_own_words_on_one_line(self):
        assert translate(RuntimeError("no\n  kernel for\tFoo")) == "ONNX Runtime refused the model: no kernel for Foo"

    def test_an_error_without_words_is_named(self):
        assert translate(ValueError()) == "ONNX Runtime refused the model: ValueError"

    def test_a_long_one_is_cut_and_says_so(self):
        message = translate(RuntimeError("x" * 10_000))
        assert len(message) < 600
        assert message.endswith("x ...")

    def test_memory(self):
        assert translate(MemoryError("std::bad_alloc")) == "ONNX Runtime refused the model: out of memory"

    @pytest.mark.parametrize("error", [UsageError("ours", hint="keep"), KeyboardInterrupt(), SystemExit(1)])
    def test_what_is_not_the_runtimes_goes_through(self, error):
        with pytest.raises(type(error)) as raised, translated("running"):
            raise error
        assert raised.value is error

    def test_nothing_happens_when_nothing_happens(self):
        with translated("running"):
            pass


def test_installed():
    assert installed("msgspec", "cpu").usable
    (reason,) = installed("no-such-runtime", "cpu").reasons
    assert reason.code == "not_installed"
    assert "no-such-runtime is not installed" in reason.why
    assert "[cpu]" in reason.cure


def test_a_precision_that_is_not_offered():
    require_precision("engine", "bf16", ("fp32", "bf16"))
    with pytest.raises(EngineError, match="engine cannot run in fp64 here") as refused:
        require_precision("engine", "fp64", ("fp32", "bf16"))
    assert refused.value.hint == "it offers: fp32, bf16"


def test_a_precision_that_was_not_built():
    require_built("engine", "auto", "bf16")
    require_built("engine", "bf16", "bf16")
    with pytest.raises(EngineError, match="engine was asked for fp16 and built bf16"):
        require_built("engine", "fp16", "bf16")


@pytest.mark.parametrize(("threads", "streams", "each"), [(8, 1, 8), (8, 2, 4), (7, 2, 3), (2, 4, 1), (1, 1, 1)])
def test_threads_are_shared_among_streams(threads, streams, each):
    assert threads_per_stream(threads, streams) == each

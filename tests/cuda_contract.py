"""What every implementation of :class:`hwbench.cuda.api.Cuda` must do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from hwbench.cuda.api import Address, Cuda, LaunchShape
from hwbench.errors import EngineError

N = 300
SHAPE = LaunchShape(grid=(3, 1, 1), block=(128, 1, 1))

AXPY_PTX = b"""
.version 6.0
.target sm_50
.address_size 64
.visible .entry axpy(.param .u64 x, .param .u64 y, .param .u32 n, .param .f32 a)
{
    .reg .pred %p; .reg .b32 %r<6>; .reg .b64 %d<6>; .reg .f32 %f<5>;
    ld.param.u64 %d1, [x]; ld.param.u64 %d2, [y]; ld.param.u32 %r1, [n]; ld.param.f32 %f1, [a];
    mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.s32 %p, %r5, %r1;
    @%p bra END;
    mul.wide.s32 %d3, %r5, 4;
    cvta.to.global.u64 %d1, %d1; cvta.to.global.u64 %d2, %d2;
    add.s64 %d4, %d1, %d3; add.s64 %d5, %d2, %d3;
    ld.global.f32 %f2, [%d4]; ld.global.f32 %f3, [%d5];
    fma.rn.f32 %f4, %f1, %f2, %f3;
    st.global.f32 [%d5], %f4;
END:
    ret;
}
\0"""


class CudaContract:
    """Subclass it, with fixtures ``cuda`` and ``image`` (of a module with the kernel ``axpy``)."""

    def test_facts(self, cuda: Cuda):
        facts = cuda.facts
        assert facts.uuid.startswith(("GPU-", "MIG-"))
        assert facts.name
        assert facts.backend
        assert facts.schedule == "spin"
        assert facts.compute_capability > (3, 0)
        assert facts.driver_cuda > (11, 0)
        assert min(facts.multiprocessors, facts.l2_bytes, facts.memory_bytes) > 0
        assert 1e8 < facts.clock_hz < 1e10

    @pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, ml_dtypes.bfloat16, np.bool_])
    @pytest.mark.parametrize("shape", [(), (7,), (3, 5)])
    def test_what_goes_in_comes_out(self, cuda: Cuda, dtype, shape):
        there = (np.arange(np.prod(shape, dtype=int)) % 5 + 1).astype(dtype).reshape(shape)
        stream, buffer = cuda.stream(), cuda.allocate(there.nbytes)
        back = np.zeros_like(there)
        cuda.copy_in(buffer.address, there, stream)
        cuda.copy_out(back, buffer.address, stream)
        stream.wait()
        buffer.free()
        assert back.tobytes() == there.tobytes()

    def test_an_array_that_is_not_contiguous_is_refused(self, cuda: Cuda):
        stream, buffer = cuda.stream(), cuda.allocate(64)
        array = np.zeros((4, 4), np.float32)[:, ::2]
        with pytest.raises(ValueError, match="contiguous"):
            cuda.copy_in(buffer.address, array, stream)
        with pytest.raises(ValueError, match="contiguous"):
            cuda.copy_out(array, buffer.address, stream)
        buffer.free()

    def test_part_of_a_buffer(self, cuda: Cuda):
        stream, buffer, back = cuda.stream(), cuda.allocate(8), np.zeros(8, np.uint8)
        cuda.fill(buffer.address, 1, 8, stream)
        cuda.fill(buffer.address + 2, 7, 3, stream)
        cuda.copy_out(back, buffer.address, stream)
        stream.wait()
        buffer.free()
        assert back.tolist() == [1, 1, 7, 7, 7, 1, 1, 1]

    def test_page_locked_memory(self, cuda: Cuda):
        stream, buffer = cuda.stream(), cuda.allocate(16)
        there, back = cuda.pinned(16), cuda.pinned(16)
        assert there.array.dtype == np.uint8
        assert there.array.shape == (16,)
        assert there.address == there.array.ctypes.data
        there.array[:] = range(16)
        cuda.copy_in(buffer.address, there.array, stream)
        cuda.copy_out(back.array, buffer.address, stream)
        stream.wait()
        assert back.array.tolist() == list(range(16))
        for each in (there, back, buffer):
            each.free()
            each.free()

    def test_no_bytes(self, cuda: Cuda):
        buffer, pinned = cuda.allocate(0), cuda.pinned(0)
        assert buffer.address
        assert buffer.size_bytes == 0
        assert pinned.array.size == 0
        buffer.free()
        pinned.free()

    def test_more_memory_than_there_is(self, cuda: Cuda):
        with pytest.raises(EngineError, match="memory"):
            cuda.allocate(1 << 50)

    def test_a_kernel(self, cuda: Cuda, image: bytes):
        function = cuda.load(image).function("axpy")
        assert function.registers > 0
        assert function.most_threads >= 128
        assert min(function.shared_bytes, function.local_bytes) >= 0
        assert axpy(cuda, image, lambda go, _: (go(2.0), go(-0.5))).tolist() == [1.5 * i + 10 for i in range(N)]

    def test_kernels_that_are_not_there(self, cuda: Cuda, image: bytes):
        with pytest.raises(EngineError):
            cuda.load(b"neither a cubin nor PTX\0")
        module = cuda.load(image)
        with pytest.raises(EngineError):
            module.function("none")
        module.unload()

    def test_launches_that_are_refused(self, cuda: Cuda, image: bytes):
        function, stream, buffer = cuda.load(image).function("axpy"), cuda.stream(), cuda.allocate(4 * N)
        right = (buffer.address, buffer.address, N, 1.0)
        with pytest.raises(EngineError):
            function.launch(LaunchShape(grid=(1, 1, 1), block=(4096, 1, 1)), right, stream)
        with pytest.raises(EngineError):
            function.launch(LaunchShape(grid=(0, 1, 1), block=(32, 1, 1)), right, stream)
        with pytest.raises(EngineError, match="Address"):
            function.launch(SHAPE, (int(buffer.address), buffer.address, N, 1.0), stream)
        buffer.free()

    def test_an_address_stays_one(self, cuda: Cuda):
        assert isinstance(cuda.allocate(8).address + 4, Address)

    def test_events(self, cuda: Cuda, image: bytes):
        before, after = cuda.event(), cuda.event()

        def work(go, stream):
            before.record(stream)
            go(1.0)
            after.record(stream)

        axpy(cuda, image, work)
        before.wait()
        after.wait()
        assert 0 < after.since(before) < 1
        for each in (before, after):
            each.free()
            each.free()

    def test_an_event_without_a_time(self, cuda: Cuda):
        stream, first, second = cuda.stream(), cuda.event(timing=False), cuda.event()
        first.record(stream)
        second.record(stream)
        stream.wait()
        with pytest.raises(EngineError):
            second.since(first)

    def test_a_graph_runs_when_it_is_launched(self, cuda: Cuda, image: bytes):
        def work(go, stream):
            graph = cuda.capture(lambda: (go(1.0), go(2.0)), stream)
            graph.launch(stream)
            graph.launch(stream)
            stream.wait()
            graph.free()
            graph.free()

        assert axpy(cuda, image, work).tolist() == [6 * i + 10 for i in range(N)]

    def test_what_was_captured_is_not_run(self, cuda: Cuda, image: bytes):
        assert axpy(cuda, image, lambda go, stream: cuda.capture(lambda: go(1.0), stream)).tolist() == [10] * N

    @pytest.mark.parametrize("bad", ["wait", "allocate", "raise"])
    def test_a_capture_that_fails_leaves_the_stream_usable(self, cuda: Cuda, image: bytes, bad):
        def work(go, stream):
            def captured():
                go(1.0)
                if bad == "raise":
                    raise KeyError(bad)
                stream.wait() if bad == "wait" else cuda.allocate(16)

            with pytest.raises(KeyError if bad == "raise" else EngineError):
                cuda.capture(captured, stream)
            cuda.capture(lambda: go(3.0), stream).launch(stream)

        assert axpy(cuda, image, work).tolist() == [3 * i + 10 for i in range(N)]

    def test_another_thread(self, cuda: Cuda, image: bytes):
        def work(go, stream):
            graph = cuda.capture(lambda: go(1.0), stream)
            errors = []

            def run():
                try:
                    cuda.make_current()
                    graph.launch(stream)
                    go(1.0)
                    stream.wait()
                except BaseException as error:  # noqa: BLE001 - shown by the test
                    errors.append(error)

            for _ in range(2):
                thread = threading.Thread(target=run)
                thread.start()
                thread.join()
            assert not errors

        assert axpy(cuda, image, work).tolist() == [4 * i + 10 for i in range(N)]

    def test_a_stream_of_somebody_else(self, cuda: Cuda, image: bytes):
        theirs = cuda.stream()
        foreign = SimpleNamespace(handle=theirs.handle, wait=theirs.wait, free=lambda: None)
        function = cuda.load(image).function("axpy")
        x, y, back = cuda.allocate(8), cuda.allocate(8), np.empty(2, np.float32)
        cuda.copy_in(x.address, np.array([1, 2], np.float32), foreign)
        cuda.fill(y.address, 0, 8, foreign)
        shape = LaunchShape(grid=(1, 1, 1), block=(2, 1, 1))
        graph = cuda.capture(lambda: function.launch(shape, (x.address, y.address, 2, 1.0), foreign), foreign)
        graph.launch(foreign)
        function.launch(shape, (x.address, y.address, 2, 2.0), foreign)
        cuda.copy_out(back, y.address, foreign)
        foreign.wait()
        assert back.tolist() == [3, 6]
        for each in (graph, x, y, theirs):
            each.free()

    def test_streams_have_handles_of_their_own(self, cuda: Cuda):
        first, second = cuda.stream(), cuda.stream()
        assert len({first.handle, second.handle, 0}) == 3
        first.free()
        first.free()
        second.free()


def axpy(cuda: Cuda, image: bytes, work: Callable) -> np.ndarray:
    """Let ``work(go, stream)`` launch y += a x by ``go(a)``; x is 0, 1, 2..., y is 10; return y."""
    function, stream = cuda.load(image).function("axpy"), cuda.stream()
    x, y = cuda.allocate(4 * N), cuda.allocate(4 * N)
    start, back = np.full(N, 10, np.float32), np.empty(N, np.float32)
    index = np.arange(N, dtype=np.float32)
    cuda.copy_in(x.address, index, stream)
    cuda.copy_in(y.address, start, stream)
    work(lambda a: function.launch(SHAPE, (x.address, y.address, N, a), stream), stream)
    cuda.copy_out(back, y.address, stream)
    stream.wait()
    for each in (x, y, stream):
        each.free()
    return back

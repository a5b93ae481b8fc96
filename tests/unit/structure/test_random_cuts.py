"""Random networks: a cut of any of them equals the original with zeros, and fits in shape and number of nodes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from structure_graphs import BATCH, DIM, TOKENS, WIDTH, Net, attended, cut_like_masked, heads_of

CASES = settings(max_examples=25, deadline=None)
ACTIVATIONS = st.sampled_from(["Relu", "Sigmoid", "Tanh", "HardSwish", "Identity"])


class Stream:
    """A convolutional network that grows by one random block after the other."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.channels = draw(st.sampled_from([2, 3, 4, 6]))
        self.net = Net(draw(st.integers(1, 2)), 3, 9, 9, seed=draw(st.integers(0, 99)))
        self.y = self.net.conv("x", 3, self.channels, name="stem")
        self.count = 0

    def block(self) -> None:
        kind = self.draw(
            st.sampled_from([self.plain, self.residual, self.branches, self.depthwise, self.grouped, self.gate])
        )
        self.count += 1
        kind(f"b{self.count}")
        if self.draw(st.booleans()):
            self.y = self.net.norm(self.y, self.channels, f"b{self.count}.bn")
        self.y = self.net.node(self.draw(ACTIVATIONS), self.y)

    def plain(self, name: str) -> None:
        kernel, dilation = self.draw(st.sampled_from([1, 3])), self.draw(st.integers(1, 2))
        out, pad = self.draw(st.integers(1, 7)), dilation * (kernel // 2)
        self.y = self.net.conv(
            self.y, self.channels, out, kernel, name=name, bias=self.draw(st.booleans()), pads=[pad] * 4,
            dilations=[dilation] * 2, strides=[self.draw(st.integers(1, 2))] * 2,
        )  # fmt: skip
        self.channels = out

    def residual(self, name: str) -> None:
        inner = self.draw(st.integers(1, 6))
        z = self.net.node("Relu", self.net.conv(self.y, self.channels, inner, 3, name=f"{name}.in"))
        self.y = self.net.node("Add", self.y, self.net.conv(z, inner, self.channels, name=f"{name}.out"))

    def branches(self, name: str) -> None:
        widths = self.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
        made = [self.net.conv(self.y, self.channels, width, name=f"{name}.{i}") for i, width in enumerate(widths)]
        if self.draw(st.booleans()):
            made.insert(0, self.y)
            widths = [self.channels, *widths]
        self.y, self.channels = self.net.node("Concat", *made, axis=1), sum(widths)

    def depthwise(self, name: str) -> None:
        out = self.channels * self.draw(st.integers(1, 2))
        self.y = self.net.conv(self.y, self.channels, out, 3, group=self.channels, name=name)
        self.channels = out

    def grouped(self, name: str) -> None:
        group = self.draw(st.sampled_from([g for g in (1, 2, 3, 4) if self.channels % g == 0]))
        out = group * self.draw(st.integers(1, 3))
        self.y = self.net.conv(self.y, self.channels, out, 3, group=group, name=name)
        self.channels = out

    def gate(self, name: str) -> None:
        narrow = self.draw(st.integers(1, 4))
        z = self.net.conv(self.net.node("GlobalAveragePool", self.y), self.channels, narrow, name=f"{name}.squeeze")
        z = self.net.conv(self.net.node("Relu", z), narrow, self.channels, name=f"{name}.excite")
        self.y = self.net.node("Mul", self.y, self.net.node("Sigmoid", z))

    def model(self, flatten: bool):
        if not flatten:
            return self.net.model(self.net.pooled(self.y, self.channels))
        pooled = self.net.node("Resize", self.y, "", "", self.net.constant(
            [self.net.shape[0], self.channels, 2, 3]), mode="nearest")  # fmt: skip
        flat = self.net.reshape(pooled, self.net.shape[0], self.channels * 6)
        return self.net.model(self.net.gemm(flat, self.channels * 6, 3, "head"))


@st.composite
def convolutional(draw: st.DrawFn):
    stream = Stream(draw)
    for _ in range(draw(st.integers(1, 4))):
        stream.block()
    return stream.model(draw(st.booleans()))


@st.composite
def transformers(draw: st.DrawFn):
    """Blocks of attention, grouped queries among them, and gated or plain hidden units; norms or none."""
    net, y = Net(BATCH, TOKENS, WIDTH, seed=draw(st.integers(0, 99))), "x"
    for index in range(draw(st.integers(1, 2))):
        pairs, each = draw(st.integers(1, 3)), draw(st.integers(1, 2))
        z = y
        if draw(st.booleans()):
            z = net.node("LayerNormalization", y, net.random(WIDTH), net.random(WIDTH), axis=-1)
        q = heads_of(net, net.linear(z, WIDTH, pairs * each * DIM, f"{index}.q"), pairs * each)
        k, v = (heads_of(net, net.linear(z, WIDTH, pairs * DIM, f"{index}.{name}"), pairs) for name in "kv")
        if each > 1:
            k, v = (grown(net, side, pairs, each) for side in (k, v))
        merged = net.node("Transpose", attended(net, q, k, v), perm=[0, 2, 1, 3])
        out = net.linear(net.reshape(merged, BATCH, TOKENS, -1), pairs * each * DIM, WIDTH, f"{index}.o")
        y = net.node("Add", y, out) if index or draw(st.booleans()) else out
        hidden = draw(st.integers(1, 9))
        up = net.linear(y, WIDTH, hidden, f"{index}.up", bias=draw(st.booleans()))
        if draw(st.booleans()):
            up = net.node("Mul", net.node("Sigmoid", net.linear(y, WIDTH, hidden, f"{index}.gate")), up)
        y = net.node("Add", y, net.linear(net.node("Relu", up), hidden, WIDTH, f"{index}.down"))
    return net.model(y)


def grown(net: Net, y: str, pairs: int, each: int) -> str:
    y = net.reshape(y, BATCH, pairs, 1, TOKENS, DIM)
    y = net.node("Expand", y, net.constant([1, 1, each, 1, 1]))
    return net.reshape(y, BATCH, pairs * each, TOKENS, DIM)


@CASES
@given(model=convolutional(), fraction=st.sampled_from([0.25, 0.6, 0.9]), seed=st.integers(0, 9))
def test_random_convolutional_networks(model, fraction, seed):
    cut_like_masked(model, fraction, seed)


@CASES
@given(model=transformers(), fraction=st.sampled_from([0.25, 0.6, 0.9]), seed=st.integers(0, 9))
def test_random_transformers(model, fraction, seed):
    cut_like_masked(model, fraction, seed)

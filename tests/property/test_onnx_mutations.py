"""Damaged ONNX files: whatever is in one, bringing it in succeeds or raises an HwbenchError, soon and in little memory.

Two kinds of damage, each drawn from a number: bytes of a good file changed, cut, inserted or repeated; and fields of a
good model (operators, wires, attributes, shapes, types) replaced by others, which gets deeper than bytes do. A child
process with limited memory goes through thousands of them and notes which it is at, since the parsers are C++ and could
end it. When these tests were written, 100 000 mutants had crashed none of them.
"""

from __future__ import annotations

import logging
import random
import resource
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx_graphs as graphs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from hwbench.errors import HwbenchError
from hwbench.graph.importer import import_model
from hwbench.records.model import ImportJob

MAKERS = (
    graphs.mlp,
    graphs.convnet,
    graphs.branches,
    graphs.loop,
    graphs.local_function,
    graphs.quantized,
    graphs.embedding,
    lambda: graphs.convnet(bias=True, batch="N"),
    lambda: graphs.two_inputs(["N", "length"], ["N", "length"]),
)
GOOD = tuple(make().SerializeToString() for make in MAKERS)

_SCHEMAS = onnx.defs.get_all_schemas()
OPERATORS = sorted({schema.name for schema in _SCHEMAS})
ATTRIBUTES = sorted({name for schema in _SCHEMAS for name in schema.attributes})
SIZES = (0, 1, -1, 2, 3, 7, 100_000, 2**31 - 1, 2**31, -(2**31), 2**40, 2**63 - 1, -(2**63))

MUTANTS = {"bytes": 2500, "fields": 1000}
MEMORY_BYTES = 2 << 30  # address space, of which the libraries themselves take about a third
SECONDS_A_MUTANT = 20


# Bytes


def flip(data, at, length, byte):
    data[at] ^= byte or 1


def cut(data, at, length, byte):
    del data[at : at + length]


def insert(data, at, length, byte):
    data[at:at] = bytes([byte]) * length


def repeat(data, at, length, byte):
    data[byte % len(data) : byte % len(data)] = data[at : at + length]


def shorten(data, at, length, byte):
    del data[at:]


BYTE_CHANGES = (flip, flip, cut, insert, repeat, shorten)


def changed_bytes(seed):
    generator = random.Random(seed)
    data = bytearray(generator.choice(GOOD))
    for _ in range(generator.choice([1, 1, 1, 2, 4])):
        if data:
            change = generator.choice(BYTE_CHANGES)
            change(
                data, generator.randrange(len(data)), generator.choice([1, 1, 2, 4, 8, 32]), generator.randrange(256)
            )
    return bytes(data)


# Fields


def inner_graphs(graph):
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from inner_graphs(attribute.g)


def attribute(generator):
    numbers = [generator.choice(SIZES) for _ in range(1 + generator.randrange(4))]
    value = generator.choice([numbers[0], numbers, 1.5, [0.5, 2.0], "text", ["text"], graphs.weight("t", [1.0])])
    return helper.make_attribute(generator.choice(ATTRIBUTES), value)


def change_node(graph, node, generator):
    tensors = ["", *(item.name for item in (*graph.input, *graph.initializer))]
    tensors += [name for other in graph.node for name in other.output]
    kind = generator.randrange(7)
    if kind == 0:
        node.op_type = generator.choice(OPERATORS)
    elif kind == 1 and node.input:
        node.input[generator.randrange(len(node.input))] = generator.choice(tensors)
    elif kind == 2:
        node.input.append(generator.choice(tensors))
    elif kind == 3 and node.input:
        del node.input[generator.randrange(len(node.input))]
    elif kind == 4:
        node.output.append(generator.choice([*tensors, "new"]))
    elif kind == 5 and node.attribute:
        generator.choice(node.attribute).type = generator.randrange(15)
    else:
        node.attribute.append(attribute(generator))


def change_weight(weight, generator):
    if generator.random() < 0.5:
        weight.data_type = generator.randrange(26)
    else:
        numbers = np.array([generator.choice(SIZES) for _ in range(generator.randrange(6))], dtype=np.int64)
        weight.CopyFrom(graphs.weight(weight.name, numbers.reshape(generator.choice([(-1,), (1, -1)]))))


def change_input(value, generator):
    kind = value.type.tensor_type
    if generator.random() < 0.5:
        kind.elem_type = generator.randrange(26)
    else:
        (generator.choice(kind.shape.dim) if kind.shape.dim else kind.shape.dim.add()).dim_value = generator.choice(
            SIZES
        )


def change_field(model, generator):
    graph = generator.choice(list(inner_graphs(model.graph)))
    share = generator.random()
    if share < 0.2 and graph.initializer:
        change_weight(generator.choice(graph.initializer), generator)
    elif share < 0.4 and graph.input:
        change_input(generator.choice(graph.input), generator)
    else:
        change_node(graph, generator.choice(graph.node), generator)


def changed_fields(seed):
    generator = random.Random(seed)
    model = generator.choice(MAKERS)()
    for _ in range(generator.choice([1, 1, 2, 3, 6])):
        change_field(model, generator)
    return model.SerializeToString()


KINDS = {"bytes": changed_bytes, "fields": changed_fields}


# The claim


def bring_in(data, folder):
    """Bring a mutant in; say whether it was accepted. Anything but an HwbenchError goes on to the caller."""
    path = folder / "mutant.onnx"
    path.write_bytes(data)
    job = ImportJob(model=str(path), batch_size=None, shapes={}, input_data=None, seed=0)
    try:
        import_model(job, folder / "out")
    except HwbenchError as error:
        refusal = str(error)
    else:
        return True
    assert 10 < len(refusal) < 2000
    return False


@st.composite
def damaged(draw):
    data = bytearray(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(1, 4))):
        if data:
            at = draw(st.integers(0, len(data) - 1))
            draw(st.sampled_from(BYTE_CHANGES))(data, at, draw(st.integers(1, 64)), draw(st.integers(0, 255)))
    return bytes(data)


@given(damaged())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_comes_in_or_is_refused(tmp_path, data):
    bring_in(data, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_mutants_in_little_memory(tmp_path, kind):
    """Fails with the seed: ``changed_bytes(seed)`` or ``changed_fields(seed)`` makes the mutant again."""
    child = subprocess.Popen(
        [sys.executable, __file__, kind, "0", str(MUTANTS[kind]), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "/usr/bin:/bin"},
        text=True,
    )
    try:
        output, _ = child.communicate(timeout=300)
    finally:
        child.kill()
        child.wait()

    last = (tmp_path / "seed").read_text()
    assert child.returncode == 0, f"the interpreter ended with {child.returncode} on {kind} mutant {last}:\n{output}"
    accepted, refused = (int(word) for word in output.split()[-2:])
    assert accepted + refused == MUTANTS[kind]
    assert accepted > MUTANTS[kind] / 50
    assert refused > MUTANTS[kind] / 2


def main(kind, first, count, folder):
    """Be the child: end with a report at the first mutant that breaks the claim."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("error")
    logging.disable(logging.CRITICAL)  # the parsers report every failure there too
    accepted = 0
    for seed in range(first, first + count):
        (folder / "seed").write_text(str(seed))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        try:
            accepted += bring_in(KINDS[kind](seed), folder)
        except BaseException:  # noqa: BLE001 - the claim is about every exception there is
            print(f"{kind} mutant {seed}")
            traceback.print_exc()
            return 1
        took = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
        if took > SECONDS_A_MUTANT:
            print(f"{kind} mutant {seed} took {took:.0f} s of CPU time")
            return 1
    print(accepted, count - accepted)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])))

"""A result file that anything may have happened to is read, or refused with a StorageError; never anything else."""

import json
import random

import fixtures_results
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.errors import StorageError
from hwbench.files import decode, encode, parse_record
from hwbench.records.base import Missing, Record
from hwbench.records.measurement import PROFILE_RESULT_SCHEMA, LatencySummary, ProfileResult
from hwbench.stats import summarize

SMALL = fixtures_results.make_result(
    fixtures_results.make_measurement(n=20, **fixtures_results.make_energy(0.1, 20)),
    fixtures_results.make_measurement(mode="throughput", n=20),
)
DATA = encode(SMALL)
STRANGE = (
    None, True, 0, -1, 1.5, "", "x", "\ud7ff", [], {}, [[]], {"kind": "missing"}, {"kind": "nothing"}, {"kind": 3},
    10**18, 10**25, 10**310, 1e308, -1e308, 5e-324, "NaN", [None] * 3, {"": ""},
    {"kind": "missing", "code": "a", "why": "b"},
)  # fmt: skip
LITERALS = (
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"-",
    b"01",
    b"9" * 5000,
    b"tru",
    b'"\\ud800"',
    b"\xff",
    b"[[[[",
)


def read(data):
    """Return the record, or None for a refusal; anything else goes through and fails the test."""
    try:
        result = parse_record(data, ProfileResult, schema=PROFILE_RESULT_SCHEMA, what="result.json")
    except StorageError:
        return None
    assert isinstance(result, ProfileResult)
    return result


def broken_bytes(chance):
    data = bytearray(DATA)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(data))
        kind = chance.randrange(6)
        if kind == 0:
            data[at] = chance.randrange(256)
        elif kind == 1:
            del data[at : at + chance.choice((1, 10, 1000))]
        elif kind == 2:
            data[at:at] = bytes(chance.randrange(256) for _ in range(chance.choice((1, 4))))
        elif kind == 3:
            del data[at:]
            break
        elif kind == 4:
            data[at:at] = chance.choice(LITERALS)
        else:
            other = chance.randrange(len(data))
            data[at : at + 50] = data[other : other + 50]
    return bytes(data)


def places(value, found):
    """Collect every container in a JSON document with each of its keys."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found.append((value, key))
        places(inner, found)
    return found


def broken_structure(chance):
    document = json.loads(DATA)
    for _ in range(chance.choice((1, 1, 1, 3))):
        container, key = chance.choice(places(document, []))
        kind = chance.randrange(5)
        if kind == 0 and isinstance(container, dict):
            del container[key]
        elif kind == 1 and isinstance(container, dict):
            container[chance.choice(("new", "kind", "code", "schema_version"))] = container[key]
        elif kind == 2:
            other, its = chance.choice(places(document, []))
            container[key] = json.loads(json.dumps(other[its]))
        elif kind == 3 and isinstance(container[key], int | float):
            container[key] = -container[key] * chance.choice((1, 10**6, 10**30))
        else:
            container[key] = chance.choice(STRANGE)
    return json.dumps(document).encode()


def test_the_file_itself_is_read():
    assert read(DATA) == SMALL


@pytest.mark.parametrize("breaking", [broken_bytes, broken_structure])
def test_a_damaged_file_is_read_or_refused(breaking):
    chance = random.Random(20)
    refused = sum(read(breaking(chance)) is None for _ in range(1600))
    assert 400 < refused < 1600, "the damage must matter, and not always"


@pytest.mark.parametrize("literal", LITERALS)
def test_a_strange_number_in_every_kind_of_place(literal):
    for field in (b'"median_s": ', b'"n": ', b'"memory_bytes": ', b'"seed": ', b'"energy_j": ', b'"macs": '):
        at = DATA.index(field) + len(field)
        end = min(DATA.index(b",", at), DATA.index(b"\n", at))
        read(DATA[:at] + literal + DATA[end:])


@pytest.mark.parametrize(
    "opening", [b"[", b'{"a":', b'{"schema_version": 1, "request": [', b'{"schema_version":1,"x":[']
)
def test_deep_nesting(opening):
    assert read(opening + opening[-1:].replace(b":", b"[") * 50_000) is None


missing = st.builds(
    Missing, code=st.from_regex(r"[a-z_]{1,20}", fullmatch=True), why=st.text(), cure=st.none() | st.text()
)
seconds = st.floats(0, 1e9)


class Box(Record, frozen=True, kw_only=True):
    value_s: float | Missing
    count: int | Missing
    summary: LatencySummary | Missing
    name: str | Missing


summaries = st.lists(st.integers(0, 10**12), min_size=1, max_size=120).map(summarize)


@given(
    st.builds(Box, value_s=seconds | missing, count=st.integers(-(2**63), 2**64 - 1) | missing,
              summary=summaries | missing, name=st.text() | missing)
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_what_is_written_is_what_is_read(box):
    assert decode(encode(box), Box, what="a box") == box

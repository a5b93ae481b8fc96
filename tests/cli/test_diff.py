import csv
import io
import json
import subprocess
import sys

import msgspec
import pytest
from fixtures_results import make_measurement, make_result

from hwbench.cli.main import main
from hwbench.files import write_record
from hwbench.records.base import Missing


@pytest.fixture
def results(tmp_path):
    """Folders ``a`` (two engines), ``b`` (one, faster) and ``bare`` (no layer table)."""
    a = make_measurement("onnxruntime", "fp32", median_s=4.5e-3)
    fused = make_measurement("openvino", "bf16", median_s=2.3e-3)
    b = make_measurement("onnxruntime", "fp32", median_s=4.0e-3)
    bare = msgspec.structs.replace(b, layers=Missing(code="not_asked", why="layers were not asked for"))
    for name, measurements in {"a": (a, fused), "b": (b,), "bare": (bare,)}.items():
        write_record(tmp_path / name / "result.json", make_result(*measurements))
    return tmp_path


def run(capsysbinary, *arguments):
    code = main(["diff", *map(str, arguments)])
    out, err = capsysbinary.readouterr()
    return code, out.decode(), err.decode()


def test_two_results(results, capsysbinary):
    code, out, _ = run(capsysbinary, results / "a", results / "b" / "result.json", "-e", "onnxruntime")
    assert code == 0
    assert "end to end" in out


def test_inside_one_result_as_json(results, capsysbinary):
    code, out, _ = run(capsysbinary, results / "a", "--a", "onnxruntime:fp32", "--b", "openvino:bf16", "--json")
    assert code == 0
    found = json.loads(out)
    total = sum(row["difference_s"] for row in found["rows"]) + found["residual"]["difference_s"]
    assert total == pytest.approx(found["difference_s"], abs=1e-15)
    assert (found["a"]["engine"], found["b"]["precision"]) == ("onnxruntime", "bf16")


def test_csv_and_grouping(results, capsysbinary):
    code, out, _ = run(capsysbinary, results / "a", "--a", "onnxruntime", "--b", "openvino", "--csv", "--by", "op")
    assert code == 0
    groups = [line["group"] for line in csv.DictReader(io.StringIO(out))]
    assert "Conv + Add" in groups


def test_depth_changes_the_groups(results, capsysbinary):
    arguments = [results / "a", "--a", "onnxruntime", "--b", "openvino", "--csv", "--by", "module"]
    shallow, deep = run(capsysbinary, *arguments)[1], run(capsysbinary, *arguments, "--depth", "2")[1]
    assert len(deep.splitlines()) > len(shallow.splitlines())


def test_top(results, capsysbinary):
    out = run(capsysbinary, results / "a", "--a", "onnxruntime", "--b", "openvino", "--top", "1")[1]
    assert "other rows" in out


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (("a", "bare", "-e", "onnxruntime"), 4, "has no per-layer times"),
        (("a",), 2, "nothing tells A from B"),
        (("a", "-e", "onnxruntime"), 2, "nothing tells A from B"),
        (("a", "b"), 2, "fits several"),
        (("a", "b", "b"), 2, "3 were given"),
        (("a", "b", "--a", "x:y:z"), 2, "is not a measurement"),
        (("a", "b", "--a", "onnxruntime", "-e", "openvino"), 2, "both name the engine"),
        (("a", "b", "--a", "onnxruntime:fp32", "-p", "fp32"), 2, "both name the precision"),
        (("a", "b", "--json", "--csv"), 2, "exclude each other"),
        (("a", "b", "--json", "--top", "3"), 2, "--top is for the table"),
        (("a", "b", "--depth", "3"), 2, "--by module"),
        (("a", "nothing"), 3, "cannot read"),
    ],
)
def test_refusals(results, capsysbinary, arguments, code, part):
    given = [str(results / word) if word in {"a", "b", "bare", "nothing"} else word for word in arguments]
    found, out, err = run(capsysbinary, *given)
    assert (found, out) == (code, "")
    assert part in err
    assert err.count("error: ") == 1


def test_it_needs_no_torch(results):
    program = (
        "import sys; from hwbench.cli.main import main; "
        f"assert main(['diff', {str(results / 'a')!r}, '--a', 'onnxruntime', '--b', 'openvino', '--json']) == 0; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)

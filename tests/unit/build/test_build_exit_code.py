"""What a build ends with, and what it shows, from records made for the purpose."""

from types import SimpleNamespace

import msgspec
import pytest
from rich.console import Console

from hwbench.cli.build import exit_code
from hwbench.records.base import Missing
from hwbench.records.build import Bundled, EngineBuilt
from hwbench.records.measurement import Built, NotMeasured
from hwbench.records.model import Artefact
from hwbench.records.placement import Unmet
from hwbench.records.quantization import Lowered, LoweredLayer, PrecisionPlan
from hwbench.records.verification import Agreement, Certificate, Verified
from hwbench.report.build import render_build

NOT_ASKED = Missing(code="not_asked", why="nobody asked for it")
BROKEN = Missing(code="engine_failed", why="it broke")
NO_LABELS = Missing(code="no_labels", why="there are no labels")
UNMET = Unmet(requirement="precision", wanted="fp32", unit="conv7", found="int8", why="it is built so")


def certificate(word):
    return Certificate(
        word=word, metric="accuracy", max_drop=0.01, drop=0.0, low=0.0, high=0.0, n=9, worse=0, better=0, enough=9,
        method="exact",
    )  # fmt: skip


def verified(word=None, *, finite=True):
    return Verified(
        engine="stub", precision_asked="auto", built=built(), scores=(), finite=finite, outputs_sha256="0" * 64,
        agreement=Agreement(what="the largest output", n=40, different=1, rate=0.025, low=0.001, high=0.13),
        outputs=NOT_ASKED, certificate=NO_LABELS if word is None else certificate(word), layers=NOT_ASKED,
    )  # fmt: skip


def built():
    return Built(engine="stub", version="1", precision="int8", execution_units=("CPU",), threads=1, settings={},
                 layers=NOT_ASKED)  # fmt: skip


def bundled(judged=NOT_ASKED, *, unmet=(), result=NOT_ASKED):
    left = LoweredLayer(layer="a", asked="int8", got="float", why="a reason")
    lowered = Lowered(files=("m",), arithmetic="int8", settings={}, layers=(left,), same_bytes=True)
    engine = EngineBuilt(
        artefact=Artefact(engine="stub", sha256="0" * 64, files=("m",), label="int8"), lowered=lowered, built=built(),
        size_bytes=10, lower_s=1.0, load_s=0.1,
    )  # fmt: skip
    return Bundled(
        path="net-stub-int8", plan=PrecisionPlan(default="int8"), engine=engine, unmet=unmet, verified=judged,
        median_s=NOT_ASKED, result=result,
    )  # fmt: skip


def found(*bundles, lost=()):
    return SimpleNamespace(
        bundles=bundles, not_built=lost, warnings=(), calibration=NOT_ASKED, reference=NOT_ASKED,
        model=SimpleNamespace(name="net"), request=SimpleNamespace(one_file=False, verify=asked(bundles)),
        device=SimpleNamespace(kind="cpu", name="cpu", title="a CPU"),
    )  # fmt: skip


def asked(bundles):
    """What was to be verified: nothing where no bundle was."""
    return NOT_ASKED if all(item.verified is NOT_ASKED for item in bundles) else SimpleNamespace(max_drop=0.01)


def lost(*, failed):
    return NotMeasured(engine="other", precision="", reason=Missing(code="plugin", why="not here"), failed=failed)


@pytest.mark.parametrize(
    ("result", "code", "strictly"),
    [
        (found(bundled()), 0, 0),
        (found(bundled(verified("CERTIFIED"))), 0, 0),
        (found(bundled(verified("CERTIFIED")), bundled(verified("FAILED"))), 1, 1),
        (found(bundled(verified("CERTIFIED", finite=False))), 1, 1),
        (found(bundled(unmet=(UNMET,))), 1, 1),
        (found(bundled(unmet=(UNMET,)), lost=(lost(failed=True),)), 1, 1),
        (found(bundled(), lost=(lost(failed=True),)), 3, 3),
        (found(bundled(), lost=(lost(failed=False),)), 0, 0),
        (found(bundled(BROKEN)), 3, 3),
        (found(bundled(result=BROKEN)), 3, 3),
        (found(bundled(verified("NOT ENOUGH DATA"))), 0, 5),
        (found(bundled(verified())), 0, 5),
        (found(bundled(verified("CERTIFIED")), bundled(verified())), 0, 5),
        (found(bundled(BROKEN), bundled(verified("NOT ENOUGH DATA"))), 3, 3),
    ],
)
def test_exit_code(result, code, strictly):
    assert exit_code(result, strict=False) == code
    assert exit_code(result, strict=True) == strictly


def shown(result, tmp_path):
    console = Console(width=100, record=True, quiet=False, file=(tmp_path / "shown").open("w", encoding="utf-8"))
    console.print(render_build(result, tmp_path))
    console.file.close()
    return " ".join((tmp_path / "shown").read_text(encoding="utf-8").split())


@pytest.mark.parametrize(("kind", "name", "there"), [("nvidia", "cuda:1", "--device cuda:1"), ("cpu", "cpu", None)])
def test_what_is_compared_is_compared_on_its_device(tmp_path, kind, name, there):
    result = found(bundled(), bundled())
    result.device = SimpleNamespace(kind=kind, name=name, title="a device")
    text = shown(result, tmp_path)
    assert "hwbench compare" in text
    assert there is None or there in text
    assert ("--device" in text) == (there is not None)


@pytest.mark.parametrize(("kind", "there"), [("nvidia", "cuda:0"), ("jetson", "jetson")])
def test_what_is_not_attached_is_measured_and_not_compared(tmp_path, kind, there):
    away = msgspec.structs.replace(bundled(), engine=msgspec.structs.replace(bundled().engine, built=BROKEN))
    result = found(away, away)
    result.device = SimpleNamespace(kind=kind, name="a-profile", title="a device")
    text = shown(result, tmp_path)
    assert "hwbench compare" not in text
    assert f"--device {there}" in text


def test_what_is_shown(tmp_path):
    text = shown(found(bundled(verified()), bundled(BROKEN), lost=(lost(failed=False),)), tmp_path)
    assert text.count("no certificate: there are no labels") == 1
    assert "1 of 40" in text, "without labels, the agreement"
    assert "failed: it broke" in text
    assert "stub int8: 0 of 1 layers as asked; 1 of int8 are float (a reason)" in text
    assert "other: not built: not here" in text


def test_what_was_required_and_is_not_so_is_shown(tmp_path):
    text = shown(found(bundled(unmet=(UNMET,))), tmp_path)
    assert "conv7" in text
    assert "it is built so" in text

"""The child, asked about a small network: its losses, whole designs, and going on."""

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from stitched_nets import mixed_net, small_samples

pytest.importorskip("torch", reason="patches are put into the torch view")

import onnx_ir as ir

from hwbench.data.store import InputWriter
from hwbench.dialogue import Dialogue
from hwbench.errors import ModelError, UsageError
from hwbench.graph.importer import import_model
from hwbench.plan.designs import design_of
from hwbench.plan.sites import space_of
from hwbench.records.model import ImportJob
from hwbench.records.planning import Design, Sensitivity
from hwbench.records.sensitivity import SensitivityJob, SensitivitySettings, StitchAnswer, StitchQuestion


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    ir.save(mixed_net(4, blocks=1), folder / "net.onnx")
    imported = import_model(
        ImportJob(model=str(folder / "net.onnx"), batch_size=4, shapes={}, input_data=None, seed=0), folder / "model"
    )
    hub = ir.load(folder / "model" / imported.files.hub)
    samples = small_samples(hub, 16, classes=5)
    (folder / "data").mkdir()
    with InputWriter(folder / "data", imported.model.inputs) as writer:
        for at in range(16):
            writer.add({name: array[at : at + 1] for name, array in samples.inputs.items()})
        writer.finish()
    np.save(folder / "data" / "labels.npy", samples.labels)
    return SensitivityJob(
        imported=imported,
        other_batch=None,
        space=space_of(hub, imported.model.hub_sha256, kinds=("width", "depth")),
        data_folder=str(folder / "data"),
        data_sha256=hashlib.sha256(samples.inputs["x"].tobytes()).hexdigest(),
        calibration=None,
        settings=SensitivitySettings(screen_samples=8, budget_s=60.0, pairs=5),
        state_folder=str(folder / "state"),
        resume=False,
        threads=1,
        seed=0,
    )


def asked(job, folder, questions=(), seen=None):
    child = Dialogue("hwbench.sensitivity.worker", job, folder=folder, what="losses", failure=ModelError, timeout_s=120,
                     on_event=None if seen is None else seen.append)  # fmt: skip
    with child:
        found = child.hear(Sensitivity)
        answers = [child.ask(question, StitchAnswer) for question in questions]
        assert child.finish(Sensitivity) == found
    return found, answers


def test_losses_designs_and_going_on(job, tmp_path):
    seen = []
    sites = [site.name for site in job.space.sites]
    design = design_of(job.space, {sites[0]: 1, sites[-1]: 1})
    questions = [
        StitchQuestion(design=design),
        StitchQuestion(design=Design()),
        StitchQuestion(design=design, samples=3),
    ]
    found, (joint, original, few) = asked(job, tmp_path, questions, seen)
    assert {one.site for one in found.losses} == set(sites)
    assert found.measure == "kl"
    assert original.divergence == 0
    assert joint.divergence > 0
    assert (joint.n, few.n) == (16, 4)
    assert isinstance(joint.accuracy, float)
    assert any(event.get("event") == "progress" for event in seen)
    again, (same,) = asked(msgspec.structs.replace(job, resume=True), tmp_path, questions[:1])
    assert (again, same) == (found, joint)  # as it was kept: nothing is measured again
    seen.clear()
    resumed = msgspec.structs.replace(job, resume=True)
    asked(resumed, tmp_path, questions[:1], seen)
    assert not [event for event in seen if event.get("event") == "progress"], "no statistics, no estimates"
    longer = msgspec.structs.replace(job.settings, budget_s=61.0)
    anew, (same,) = asked(msgspec.structs.replace(resumed, settings=longer), tmp_path, questions[:1], seen)
    assert any(event.get("event") == "progress" for event in seen), "with more time it goes on"
    assert (anew.losses, anew.pairs, same) == (found.losses, found.pairs, joint)
    told = Path(job.state_folder) / "told.json"
    told.write_bytes(told.read_bytes()[:-20])
    cut_short, _ = asked(resumed, tmp_path)
    assert (cut_short.losses, cut_short.pairs) == (found.losses, found.pairs)
    fewer = msgspec.structs.replace(job.space, sites=job.space.sites[:1])
    less, _ = asked(msgspec.structs.replace(resumed, space=fewer), tmp_path)
    assert {one.site for one in less.losses} == {sites[0]}, "what was kept is of another space"
    unasked = design_of(job.space, {sites[-1]: 1})
    _, (told,) = asked(resumed, tmp_path, [StitchQuestion(design=unasked)])
    assert told.divergence == next(one.divergence for one in found.losses if one.site == sites[-1])
    other = msgspec.structs.replace(job, resume=True, data_sha256="0" * 64)
    with pytest.raises(UsageError, match="losses of another network"):
        asked(other, tmp_path)

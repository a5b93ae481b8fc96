"""``hwbench predict``: what a network would take on a device that is not attached."""

from __future__ import annotations

import difflib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwbench.cli.terminal import Json, NoColor, Quiet, Terminal, Verbose, command, write_stdout
from hwbench.errors import ModelError, UsageError

if TYPE_CHECKING:
    from hwbench.records.model import ImportResult
    from hwbench.records.profile import Calibration, DeviceProfile

_TIMEOUT_S = 900.0


@command
def predict(
    model: Annotated[str, typer.Argument(help="net.onnx, net.pt2, net.py:callable, or a built-in model.")],
    device: Annotated[
        str, typer.Option("--device", "-d", help="A device profile; `hwbench devices` lists them. Or one that is here.")
    ],
    precision: Annotated[
        str, typer.Option("--precision", "-p", help="auto, fp32, fp16, bf16, int8, int8-dynamic, ...; of every layer.")
    ] = "auto",
    engine: Annotated[
        str | None, typer.Option("--engine", "-e", help="The runtime there. Default: the first of the profile.")
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of a CPU.")] = 1,
    power_mode: Annotated[
        str | None, typer.Option("--power-mode", help="By name or number. Default: the profile's.")
    ] = None,
    probe: Annotated[Path | None, typer.Option("--probe", help="probe.json, which a probe pack wrote there.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", "-b", min=1, help="Size of the batch axis.")] = None,
    shapes: Annotated[
        list[str] | None, typer.Option("--shapes", help="Input shapes, name:1x3x224x224; comma-separated or repeated.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=0, help="Show so many units.")] = 10,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """Predict latency and energy of MODEL on a device that is not attached, with an interval and what bounds it."""
    import onnx_ir as ir

    from hwbench.cli.request import parse_shapes
    from hwbench.cli.verify import check_engines
    from hwbench.files import encode
    from hwbench.intake import Intake
    from hwbench.prediction.predict import predict as run
    from hwbench.prediction.predict import predictor_of
    from hwbench.prediction.probe.read import doubts, read_probe
    from hwbench.report.prediction_text import render_prediction

    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    profile, calibration = _device(device, terminal)
    if engine is not None and engine not in profile.engines:
        check_engines([engine])
    measured = read_probe(probe) if probe is not None else None
    for doubt in doubts(measured) if measured is not None else ():
        terminal.say(f"warning: {doubt}")
    predictor = predictor_of(
        profile,
        engine=engine or (measured.runtime if measured is not None else _first(profile)),
        threads=threads,
        power_mode=power_mode,
        calibration=calibration,
        probe=measured,
    )
    with tempfile.TemporaryDirectory(prefix="hwbench-predict-") as folder:
        intake = Intake(folder=Path(folder), watch=terminal.steps(), threads=1, timeout_s=_TIMEOUT_S, seed=0)
        imported = intake.model(model, batch_size=batch_size, shapes=parse_shapes(shapes or []))
        hub = ir.load(_hub(imported))
        name, sha256 = imported.model.name, imported.model.hub_sha256
        found = run(hub, predictor, name=name, hub_sha256=sha256, precision=precision)
    if json:
        write_stdout(encode(found))
    else:
        terminal.show(render_prediction(found, top))


def _hub(imported: ImportResult) -> Path:
    if imported.model.artefact is not None:
        raise ModelError(
            f"'{imported.model.name}' is built for one runtime already",
            hint="predict the network that it was made from",
        )
    if imported.files.no_graph is not None:
        raise ModelError(f"'{imported.model.name}' has no graph: {imported.files.no_graph.why}")
    return Path(imported.files.folder) / imported.files.hub


def _first(profile: DeviceProfile) -> str:
    return profile.engines[0] if profile.engines else "onnxruntime"


def _device(name: str, terminal: Terminal) -> tuple[DeviceProfile, Calibration | None]:
    """Return the profile that is meant, and what was measured where the device is attached."""
    from hwbench.cost import overlay
    from hwbench.devices.profiles import load_profiles
    from hwbench.errors import DeviceError
    from hwbench.inventory import find_target

    profiles = load_profiles()
    if name in profiles:
        return profiles[name], None
    try:
        target = find_target(name)
    except DeviceError:
        close = [one for one in profiles if one.startswith(name)] or difflib.get_close_matches(name, profiles, n=4)
        raise UsageError(
            f"no device profile is called '{name}', and no device that is here",
            hint=f"did you mean {', '.join(close)}?" if close else "`hwbench devices` lists the profiles",
        ) from None
    if target.profile is None:
        raise UsageError(f"no profile fits {target.device.title}", hint="it is here: measure it with hwbench profile")
    terminal.say(f"{target.device.title} is here: hwbench profile measures it; this predicts it all the same")
    return target.profile, overlay.load(target.device.fingerprint)

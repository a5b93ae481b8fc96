"""``run_example.py`` of a bundle: twenty lines that need the runtime and numpy, and nothing of hwbench.

A text for each runtime that hwbench builds for; an engine's plugin may bring its own
(:class:`hwbench.protocols.BringsExample`).
"""

from __future__ import annotations

import json
from string import Template

from hwbench.bundles.layout import engine_file
from hwbench.bundles.reader import artefact_in
from hwbench.protocols import BringsExample
from hwbench.records.base import Missing
from hwbench.records.bundle import Manifest

_HEAD = Template('''"""Runs $name with $runtime and numpy alone, and exits with 1 if the outputs are off."""
import sys
from pathlib import Path
import numpy as np
$imports
HERE = Path(__file__).resolve().parent
inputs, expected = dict(np.load(HERE / "inputs.npz")), dict(np.load(HERE / "expected.npz"))
''')

_TAIL = Template("""good = True
for name, array in expected.items():
    off = np.abs(outputs[name].astype("f8") - array).max(initial=0) / (np.abs(array).max(initial=0) or 1)
    print(f"{name} {outputs[name].shape}: largest difference {off:.2e} of the largest value")
    good = good and off <= $tolerance
sys.exit(0 if good else 1)
""")

_ONNXRUNTIME = Template("""options = ort.SessionOptions()
options.graph_optimization_level = ort.GraphOptimizationLevel.$level
for key, value in $entries.items():
    options.add_session_config_entry(key, value)
session = ort.InferenceSession(HERE / $file, options, providers=["CPUExecutionProvider"])
outputs = dict(zip([output.name for output in session.get_outputs()], session.run(None, inputs)))
""")

_OPENVINO = Template("""model = ov.Core().compile_model(HERE / $file, "CPU", $settings)
found = model(inputs)
outputs = {name: found[model.output(index)] for index, name in enumerate($outputs)}
""")

_LITERT = Template("""outputs = Interpreter(str(HERE / $file)).get_signature_runner()(**inputs)
""")

_AOTI = Template("""model = torch._inductor.aoti_load_package(str(HERE / $file))
with torch.inference_mode():
    found = torch.utils._pytree.tree_leaves(model(*(torch.from_numpy(inputs[name]) for name in $inputs)))
outputs = {name: array.numpy() for name, array in zip($outputs, found)}
""")

_RUNTIMES = {
    "onnxruntime": ("ONNX Runtime", "import onnxruntime as ort", _ONNXRUNTIME),
    "openvino": ("OpenVINO", "import openvino as ov", _OPENVINO),
    "litert": ("LiteRT", "from ai_edge_litert.interpreter import Interpreter", _LITERT),
    "torch-aoti": ("torch", "import torch", _AOTI),
}
_TOLERANCE = {"fp32": 1e-3, "fp64": 1e-6}
_COARSE = 0.1  # one step of a quantiser, or of bf16, turns into many on the way; another CPU may take it


def example_for(manifest: Manifest, plugin: object) -> str | Missing:
    """Return the text of ``run_example.py``, or why there is none."""
    if isinstance(plugin, BringsExample):
        return plugin.run_example(manifest)
    artefact = artefact_in(manifest)
    if artefact.engine not in _RUNTIMES:
        why = f"the engine '{artefact.engine}' brings no example, and hwbench has none for it"
        return Missing(code="no_example", why=why)
    runtime, imports, body = _RUNTIMES[artefact.engine]
    settings = dict(sorted(artefact.settings.items()))
    values = {
        "file": json.dumps(engine_file(artefact.files[0])),
        "inputs": repr([spec.name for spec in manifest.model.inputs]),
        "outputs": repr([spec.name for spec in manifest.model.outputs]),
        "settings": repr(settings),
        "level": settings.pop("graph_optimization_level", "ORT_ENABLE_ALL"),
        "entries": repr(settings),
    }
    name = json.dumps(manifest.name)[1:-1]
    tolerance = _TOLERANCE.get(manifest.model.arithmetic, _COARSE)
    head = _HEAD.substitute(name=name, runtime=runtime, imports=imports)
    return head + body.substitute(values) + _TAIL.substitute(tolerance=tolerance)

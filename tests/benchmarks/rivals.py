"""What other tools make of a network by hand, as their documentation advises: one function a tool, one file each.

They are installed by whoever runs the benchmark (extra ``nncf``; ``pip install olive-ai requests``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

Arrays = dict[str, np.ndarray]


def rows(samples: Arrays, size: int) -> list[Arrays]:
    """Return samples in whole batches."""
    count = len(next(iter(samples.values())))
    return [{name: array[i : i + size] for name, array in samples.items()} for i in range(0, count - size + 1, size)]


def by_onnxruntime(graph: Path, samples: Arrays, size: int, folder: Path) -> Path:
    """``quant_pre_process`` and ``quantize_static``, as ONNX Runtime's documentation advises on x86."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(rows(samples, size))

        def get_next(self):
            return next(self.batches, None)

    prepared, path = folder / "prepared.onnx", folder / "onnxruntime.onnx"
    batches = len(rows(samples, size))
    held = next(count for count in (2, 3, 5, 7) if batches % count)  # where it divides their number, the tool fails
    quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)  # which fails on exported constants
    quantize_static(
        str(prepared),
        str(path),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"CalibMaxIntermediateOutputs": held},
    )
    return path


def by_nncf(graph: Path, samples: Arrays, size: int, folder: Path, *, transformer: bool = False) -> Path:
    """``nncf.quantize`` on OpenVINO with the ``mixed`` preset, and the model type of transformers for these."""
    nncf = pytest.importorskip("nncf", reason="compares with NNCF: pip install nncf")
    openvino = pytest.importorskip("openvino")
    data = nncf.Dataset(rows(samples, size))
    made = nncf.quantize(
        openvino.Core().read_model(graph), data, preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(rows(samples, size)), model_type=nncf.ModelType.TRANSFORMER if transformer else None,
    )  # fmt: skip
    openvino.save_model(made, folder / "nncf.xml", compress_to_fp16=False)
    return folder / "nncf.xml"


def by_nncf_controlled(
    graph: Path,
    samples: Arrays,
    size: int,
    folder: Path,
    judged: Arrays,
    labels: np.ndarray,
    allowed: float,
    *,
    transformer: bool = False,
) -> Path:
    """``nncf.quantize_with_accuracy_control``: layers stay in float until at most ``allowed`` is lost on ``judged``."""
    nncf = pytest.importorskip("nncf", reason="compares with NNCF: pip install nncf")
    openvino = pytest.importorskip("openvino")

    def validate(model, data):
        right = [np.argmax(model(batch)[model.outputs[0]], axis=1) == wanted for batch, wanted in data]
        return float(np.mean(right)), [float(each.mean()) for each in right]

    pairs = list(zip(rows(judged, size), rows({"labels": labels}, size), strict=True))
    made = nncf.quantize_with_accuracy_control(
        openvino.Core().read_model(graph),
        calibration_dataset=nncf.Dataset(rows(samples, size)),
        validation_dataset=nncf.Dataset([(batch, wanted["labels"]) for batch, wanted in pairs]),
        validation_fn=validate,
        max_drop=allowed,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(rows(samples, size)),
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
    )
    openvino.save_model(made, folder / "controlled.xml", compress_to_fp16=False)
    return folder / "controlled.xml"


def by_olive(graph: Path, samples: Arrays, size: int, folder: Path) -> Path:
    """Olive's ``OnnxStaticQuantization``, with unsigned activations and a scale for each channel, as suits x86."""
    pytest.importorskip("olive", reason="compares with Olive: pip install olive-ai requests")
    from olive.data.config import DataComponentConfig, DataConfig
    from olive.data.registry import Registry
    from olive.model import ONNXModelHandler
    from olive.passes.olive_pass import create_pass_from_dict
    from olive.passes.onnx.quantization import OnnxStaticQuantization

    class Samples:
        def __len__(self) -> int:
            return len(next(iter(samples.values())))

        def __getitem__(self, at: int):
            return {name: array[at] for name, array in samples.items()}, 0

    Registry.register_dataset("hwbench_samples")(lambda **_: Samples())
    data = DataConfig(
        name="calibration",
        type="DataContainer",
        load_dataset_config=DataComponentConfig(type="hwbench_samples"),
        dataloader_config=DataComponentConfig(params={"batch_size": size, "drop_last": True}),
    )
    types = {"activation_type": "uint8", "precision": "int8"}
    settings = {"data_config": data, "quant_format": "QDQ", "per_channel": True, **types}
    done = create_pass_from_dict(OnnxStaticQuantization, settings, disable_search=True)
    return Path(done.run(ONNXModelHandler(str(graph)), str(folder / "olive")).model_path)

"""Eight-bit ONNX files: ONNX Runtime's static quantisation of convolutions and matrix products."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unimatch.exporting.formats import INPUT, KEY

# Where the time goes; the rest stays as it is. With the clipping behind a convolution its result has the
# clipped range: else 8 bits are spread over values that nothing reads (docs/export.md has what that costs).
QUANTIZED = ["Conv", "ConvTranspose", "Gemm", "MatMul", "Relu", "Clip"]


def quantize(source: Path, target: Path, images: Iterable[np.ndarray], told: Mapping[str, Any]) -> None:
    """Writes `target`, whose weights and activations have 8 bits, from an ONNX file in fp32.

    images: what the ranges of activations are measured on, each a batch [B, ..., H, W, C] as stored. Weights
    take 7 of the 8 bits, a range a channel: CPUs without VNNI add pairs of products in 16 bits, which clips.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[np.ndarray] = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.left, None)
            return None if image is None else {INPUT: image}

    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # which would say what each of its steps could do better
    try:
        with tempfile.TemporaryDirectory() as folder:
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                target,
                Reader(),
                op_types_to_quantize=QUANTIZED,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
    finally:
        logger.setLevel(level)
    model = onnx.load(target)
    onnx.helper.set_model_props(model, {KEY: json.dumps(told)})
    onnx.save(model, target)

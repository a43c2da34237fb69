"""Variables of the environment that would change a run's figures: its configuration decides, not they.

Such a variable is left in a shell or a job script by another project, or set by a launch file. Those that
change no more than rounding (kernels, number of threads) or speed are left alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from unimatch.errors import UserError

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}  # ours: accelerate's
TF32 = "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"
PRECISION, COMPILE = "precision", "compile"
# By variable: the values that change nothing, and what decides in its place.
OVERRULED: Mapping[str, tuple[tuple[str, ...], str]] = {
    # Divides the loss, and with it the gradients.
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (("1", "auto", "none"), "batch"),
    "ACCELERATE_GRADIENT_CLIPPING": (("auto", "none"), "optimizer.clip_norm"),
    "ACCELERATE_DYNAMO_BACKEND": (("no",), COMPILE),
    "ACCELERATE_DOWNCAST_BF16": (("no", "false"), PRECISION),
    "ACCELERATE_FP8_BACKEND": (("no",), PRECISION),
    "ACCELERATE_TORCH_DEVICE": ((), "the launcher"),  # one device for all processes of a host
    # float32 products computed in fewer bits.
    TF32: (("0",), PRECISION),
    "NVIDIA_TF32_OVERRIDE": ((), PRECISION),
    "ONEDNN_DEFAULT_FPMATH_MODE": (("strict",), PRECISION),
    "DNNL_DEFAULT_FPMATH_MODE": (("strict",), PRECISION),
}
# Other ways to lay a network over processes: what `accelerate launch` says when it is asked for one.
REFUSED = {
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM launches are not supported",
}


def overrule(precision: str) -> list[str]:
    """Takes those variables out of this process's environment before anything has read them.

    Returns a line for each that had another value than the run's own; UserError for what cannot be had.
    """
    for name, text in REFUSED.items():
        if os.environ.get(name, "").lower() in ("true", "1"):
            raise UserError(
                f"{text} ({name} is set). Use DDP, or FSDP, which parts the parameters (unimatch where "
                "launch/gpu8_fsdp)"
            )
    told = []
    own = {"ACCELERATE_MIXED_PRECISION": ((PRECISIONS[precision],), f"{PRECISION}: {precision}")}
    for name, (harmless, decides) in (own | dict(OVERRULED)).items():
        value = os.environ.pop(name, "")
        if value and value.lower() not in harmless:
            told.append(f"{name}={value} of the environment is not used: {decides} decides")
            if name == TF32:  # read when torch was imported
                torch.set_float32_matmul_precision("highest")
    return told

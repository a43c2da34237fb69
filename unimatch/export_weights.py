"""Writes a run's network for other programs: with the released names, or with ours as one plain file.

unimatch export-weights runs/NAME --out NAME.pth     # {"model": ...}, as the released code saves and reads
unimatch export-weights runs/NAME --format ours --out NAME.safetensors

Of UniMatch V2 with its network: {"model": student, "model_ema": teacher}, unless --network
names one.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import torch
from safetensors.torch import save

from unimatch.durable import replace_file
from unimatch.engine import checkpoint
from unimatch.engine.entry import Parser, run_entry
from unimatch.engine.options import add_which_weights
from unimatch.engine.restore import restore
from unimatch.engine.runtime import Runtime
from unimatch.errors import UserError
from unimatch.models import released, weight_file
from unimatch.models.segmentor import ModelConfig


def main(args: list[str]) -> None:
    parser = Parser(
        prog="unimatch export-weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument(
        "--format", choices=("released", "ours"), default="released", help="names of the tensors"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help=".pth or .safetensors")
    add_which_weights(parser)
    options = parser.parse_args(args)
    if options.out.suffix not in (".pth", ".pt", ".safetensors"):
        parser.error(f"--out {options.out}: the file's name must end on .pth or .safetensors")
    if options.out.exists():
        raise UserError(f"{options.out} exists: name another file, or remove it")
    if not options.out.parent.is_dir():
        raise UserError(f"--out {options.out}: {options.out.parent} is not a folder")
    restored = restore(options.run, options.checkpoint, options.network, Runtime())
    model = restored.config.model
    state = {key: value.cpu().contiguous() for key, value in restored.net.state_dict().items()}
    if options.format == "released":
        state = released_state(state, model)
    if options.out.suffix == ".safetensors":
        data, told = save(state), f"{len(state)} tensors"
    else:
        content = {weight_file.STUDENT: state}
        both = options.format == "released" and model.head.name == "dpt" and options.network is None
        if both and restored.network != checkpoint.NETWORK:
            student = checkpoint.load_network(restored.folder, checkpoint.NETWORK)
            content = {weight_file.STUDENT: released_state(student, model), weight_file.TEACHER: state}
        if options.format == "released":
            content = {name: _wrapped(one) for name, one in content.items()}
        file = io.BytesIO()
        torch.save(content, file)
        data, told = file.getvalue(), " and ".join(f"{len(one)} tensors ({n})" for n, one in content.items())
    replace_file(options.out, data)
    print(f"{options.out}: {told} of {restored.folder}")


def _wrapped(state: released.State) -> released.State:
    """The released code saves a network that is wrapped for several devices: so its names begin."""
    return {f"module.{key}": value for key, value in state.items()}


def released_state(state: released.State, config: ModelConfig) -> released.State:
    """The tensors under the released names. UserError: a network that was not published."""
    encoder, head = config.encoder.name, config.head.name
    renamed = released.to_released(state, encoder, head)
    held = released.contents(renamed)
    ours = tuple(released.names(encoder, head).values())
    left = [key for key in state if not key.startswith(ours)]
    if held.encoder != encoder.partition(".")[0] or held.head != head or left:
        raise UserError(
            f"there is no released network with encoder {encoder} and head {head} as configured; those that "
            "there are: resnet50s, resnet101s and xception65_released with deeplabv3plus, resnet50s and "
            "resnet101s with pspnet, unet with unet, vit_{small,base,large,giant}_patch14_dinov2 with dpt. "
            "--format ours writes any network"
        )
    return renamed


if __name__ == "__main__":
    sys.exit(run_entry(main))

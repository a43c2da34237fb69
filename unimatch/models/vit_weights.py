"""Files of weights for vision transformers: names of timm, of DINOv2's and DINOv3's own code, of released
UniMatch V2 checkpoints and of ours become timm's, strictly.
"""

from __future__ import annotations

from timm.models import adapt_input_conv
from torch import Tensor, nn

from unimatch.errors import UserError
from unimatch.models import weights as weight_files
from unimatch.models.vit_names import State, timm_names
from unimatch.models.weight_file import named, read_file, split_source


def load_vit_weights(net: nn.Module, source: str, name: str, in_channels: int) -> str:
    """Loads file:PATH into timm's model `name`; returns what to log about it.

    UserError if a tensor is missing, left over or of another shape, with what that says about the file.
    """
    path, network = split_source(source)
    state, digest = read_file(path, network)
    report = f"{named(path, network)} (sha256 {digest[:12]}, {len(state)} tensors"
    for prefix, whose in (("backbone.", "a released checkpoint"), ("encoder.net.", "a checkpoint")):
        inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if inner:
            state, report = inner, f"{report}, encoder of {whose}"
            break
    state, whose = timm_names(state)
    report += f", names of {whose})" if whose else ")"
    wanted = net.state_dict()
    first = "patch_embed.proj.weight"
    if first in state and state[first].ndim == 4 and state[first].shape[1] == 3 != in_channels:
        state[first] = adapt_input_conv(in_channels, state[first])
    _check_grid(state, wanted, f"{path} as weights of {name}")
    weight_files.check_tensors(state, wanted, f"{path} as weights of {name}")
    net.load_state_dict(state)
    return report


def _check_grid(state: State, wanted: dict[str, Tensor], where: str) -> None:
    """UserError that says it in words if the file is for other patches, of another width, or for another grid
    of positions.
    """
    first = "patch_embed.proj.weight"
    if first in state and state[first].ndim == 4:
        width, *_, patch = state[first].shape
        own_width, *_, own_patch = wanted[first].shape
        advice = "name the encoder that the weights belong to"
        if patch != own_patch:
            raise UserError(
                f"{where}: the file is of a network that reads patches of {patch} pixels, this one reads "
                f"patches of {own_patch}; {advice}"
            )
        if width != own_width:
            raise UserError(
                f"{where}: the file is of a network with {width} channels, this one has {own_width}; {advice}"
            )
    key = "pos_embed"
    if key in state and key in wanted and state[key].shape[1] != wanted[key].shape[1]:
        raise UserError(
            f"{where}: the file has {state[key].shape[1]} positions, the network {wanted[key].shape[1]}; "
            "name the encoder of the size that the weights were trained at, with registers if they have them"
        )

"""Files of weights for vision transformers: names of timm, of DINOv2's and DINOv3's own code, of released
UniMatch V2 checkpoints and of ours become timm's, strictly.
"""

from __future__ import annotations

from pathlib import Path

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from unimatch.errors import UserError
from unimatch.models import weights as weight_files
from unimatch.models.weights import State

# Tensors of pretraining that features do not use. The classifier's are timm's to name.
UNUSED = ("mask_token", "head.", "head_dist.", "attn_pool.", "fc_norm.", "local_cls_norm.", "norm_pre_head.")
DINOV3_NAMES = {
    "storage_tokens": "reg_token",
    ".ls1.gamma": ".gamma_1",
    ".ls2.gamma": ".gamma_2",
    ".mlp.w1.": ".mlp.fc1_g.",
    ".mlp.w2.": ".mlp.fc1_x.",
    ".mlp.w3.": ".mlp.fc2.",
}
DINOV2_NAMES = {"register_tokens": "reg_token", ".mlp.w12.": ".mlp.fc1.", ".mlp.w3.": ".mlp.fc2."}


def load_vit_weights(net: nn.Module, source: str, name: str, in_channels: int) -> str:
    """Loads file:PATH into timm's model `name`; returns what to log about it.

    UserError if a tensor is missing, left over or of another shape, with what that says about the file.
    """
    path = Path(source.removeprefix("file:")).expanduser()
    state, digest = weight_files.read_file(path)
    report = f"{path} (sha256 {digest[:12]}, {len(state)} tensors"
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


def timm_names(state: State) -> tuple[State, str]:
    """The tensors that features use under timm's names, and whose names they had ("" for timm's).

    DINOv2's code adds a position to the class token of models with registers, and timm has the sum.
    DINOv3's has biases of queries and values, all 0 in the smaller models, where timm leaves them out.
    """
    whose = ""
    if "storage_tokens" in state:
        whose, names = "DINOv3", DINOV3_NAMES
        state = {key: value for key, value in state.items() if not key.endswith((".bias_mask", ".periods"))}
        state = _without_idle_biases(state)
    else:
        names = DINOV2_NAMES
        if any(old in key for key in state for old in DINOV2_NAMES):
            whose = "DINOv2"
        if "register_tokens" in state and "pos_embed" in state:
            position = state["pos_embed"]
            state = {**state, "cls_token": state["cls_token"] + position[:, :1], "pos_embed": position[:, 1:]}
    if "fc_norm.weight" in state and "norm.weight" not in state:  # of models whose classifier reads the mean
        names = {**names, "fc_norm.": "norm."}
    renamed: State = {}
    for key, value in state.items():
        for old, new in names.items():
            key = key.replace(old, new)
        if not key.startswith(UNUSED):
            renamed[key] = value
    return renamed, whose


def _without_idle_biases(state: State) -> State:
    """DINOv3's biases of queries, keys and values as timm has them: none if all are 0, else two of three."""
    biases = {key: value for key, value in state.items() if key.endswith(".attn.qkv.bias")}
    kept = {key: value for key, value in state.items() if key not in biases}
    used = {key: torch.nan_to_num(value).chunk(3) for key, value in biases.items()}
    if any(bool(query.any()) or bool(value.any()) for query, _, value in used.values()):
        for key, (query, _, value) in used.items():
            kept[key.replace("qkv.bias", "q_bias")] = query
            kept[key.replace("qkv.bias", "v_bias")] = value
    return kept


def _check_grid(state: State, wanted: dict[str, Tensor], where: str) -> None:
    """UserError that says it in words if the file is for other patches or another grid of positions."""
    first = "patch_embed.proj.weight"
    if first in state and state[first].ndim == 4 and state[first].shape[-1] != wanted[first].shape[-1]:
        raise UserError(
            f"{where}: the file is of a network that reads patches of {state[first].shape[-1]} pixels, this "
            f"one reads patches of {wanted[first].shape[-1]}; name the encoder that the weights belong to"
        )
    key = "pos_embed"
    if key in state and key in wanted and state[key].shape[1] != wanted[key].shape[1]:
        raise UserError(
            f"{where}: the file has {state[key].shape[1]} positions, the network {wanted[key].shape[1]}; "
            "name the encoder of the size that the weights were trained at, with registers if they have them"
        )

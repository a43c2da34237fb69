"""Names of vision transformers' tensors: those of DINOv2's and DINOv3's own code become timm's, and back."""

from __future__ import annotations

import torch
from torch import Tensor

State = dict[str, Tensor]

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


def dinov2_names(state: State) -> State:
    """The tensors of timm's model, without registers, under DINOv2's own names, with the mask token that its
    code expects and features do not use: zeros.
    """
    found: State = {}
    for key, value in state.items():
        block, dot, rest = key.partition(".mlp.")
        gated = dot and len(state[f"{block}.mlp.fc1.weight"]) == 2 * state[f"{block}.mlp.fc2.weight"].shape[1]
        if gated:
            rest = rest.replace("fc1.", "w12.").replace("fc2.", "w3.")
        found[f"{block}{dot}{rest}"] = value
    found["mask_token"] = torch.zeros_like(state["cls_token"][0])
    return found

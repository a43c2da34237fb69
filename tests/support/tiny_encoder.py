"""Five convolutions for timm to know by name: a step takes half as long as with timm's own smallest network.

What takes the time of a tiny network is its modules, not their size: each has hooks, a message of its batch
norm, an entry of the optimiser and of the checkpoint. Importing this registers it; forks know it.
"""

from __future__ import annotations

from typing import Any

from timm.layers import get_act_layer
from timm.models import generate_default_cfgs, register_model
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet, _cfg, _create_effnet

NAME = "five_convolutions"
BLOCKS = [["cn_r1_k3_s2_e1_c16"], ["cn_r1_k3_s2_e1_c24"], ["cn_r1_k3_s2_e1_c32"], ["cn_r1_k3_s2_e1_c48"]]

default_cfgs = generate_default_cfgs({f"{NAME}.untrained": _cfg()})


@register_model
def five_convolutions(pretrained: bool = False, **options: Any) -> EfficientNet:
    """Features of strides 2 to 32; the last ones are dilated for a smaller output stride."""
    blocks = decode_arch_def(BLOCKS, 1.0)
    act = get_act_layer("silu")
    return _create_effnet(NAME, pretrained, block_args=blocks, stem_size=16, act_layer=act, **options)

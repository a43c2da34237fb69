"""Heads: from features to logits. Each is built as `cls(config, channels, strides, num_classes)`."""

from unimatch.models.heads.deeplabv3plus import DeepLabV3Plus, DeepLabV3PlusConfig
from unimatch.models.heads.dpt import DPT, DPTConfig
from unimatch.models.heads.linear import LinearHead, LinearHeadConfig
from unimatch.models.heads.pspnet import PSPNet, PSPNetConfig
from unimatch.models.heads.unet import UNetHead, UNetHeadConfig
from unimatch.registry import Registry

HEADS = Registry("head")
HEADS.register("deeplabv3plus", DeepLabV3PlusConfig)(DeepLabV3Plus)
HEADS.register("pspnet", PSPNetConfig)(PSPNet)
HEADS.register("dpt", DPTConfig)(DPT)
HEADS.register("linear", LinearHeadConfig)(LinearHead)
HEADS.register("unet", UNetHeadConfig)(UNetHead)

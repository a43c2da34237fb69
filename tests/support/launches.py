"""What `accelerate launch` puts into the environment of the processes of an FSDP launch."""

from __future__ import annotations

import torch

# Older ones sum gradients over gloo in place of averaging them, or cannot shard on CPUs; they are refused.
SHARDS_ON_CPUS = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 9)


def fsdp(replicas: int = 1, parts: int = 1, reshard: bool = True) -> dict[str, str]:
    """fully_shard over all processes or, with `replicas`, in so many groups of `parts` processes."""
    told = {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_RESHARD_AFTER_FORWARD": str(reshard).lower(),
    }
    if replicas == 1:
        return told
    return told | {
        "ACCELERATE_USE_PARALLELISM_CONFIG": "true",
        "PARALLELISM_CONFIG_DP_REPLICATE_SIZE": str(replicas),
        "PARALLELISM_CONFIG_DP_SHARD_SIZE": str(parts),
    }

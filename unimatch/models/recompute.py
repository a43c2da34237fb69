"""Activation checkpointing: an encoder's blocks keep their inputs and compute the rest again in backward.

Chen et al., Training deep nets with sublinear memory cost, 2016. A step takes about a third longer and holds
a fraction of the activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from unimatch.errors import UserError


def recompute_activations(blocks: Sequence[nn.Module]) -> None:
    """Makes each block of an encoder do so in training; names and weights stay. UserError: none is given."""
    if not blocks:
        raise UserError(
            "activation_checkpointing: this encoder has no blocks to compute again; set it to false"
        )
    for block in blocks:
        # A compiler takes no contexts.
        contexts = {"context_fn": partial(_contexts, block)} if has_statistics(block) else {}
        block.forward = partial(_recomputed, block, block.forward, contexts)


def has_statistics(module: nn.Module) -> bool:
    """Whether a second pass would count its batch a second time."""
    return bool(_norms(module))


def _norms(module: nn.Module) -> list[_BatchNorm]:
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


def repeated_parts(encoder: nn.Module) -> list[nn.Module]:
    """The elements of a network's sequences of repeated parts, whatever the model calls them.

    Stages of blocks are opened as long as they are plain sequences; a block is never opened.
    """
    found: list[nn.Module] = []

    def visit(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, (nn.Sequential, nn.ModuleList)):
                parts = list(child.children())
                nested = any(isinstance(part, (nn.Sequential, nn.ModuleList)) for part in parts)
                if nested:
                    visit(child)
                elif len(parts) > 0:
                    found.extend(part for part in parts if any(True for _ in part.parameters()))
            elif not _computes(child):
                visit(child)

    visit(encoder)
    return found


def _computes(module: nn.Module) -> bool:
    """Whether a module holds parameters of its own: a layer, which is not worth a checkpoint."""
    return any(True for _ in module.parameters(recurse=False)) or not any(True for _ in module.parameters())


def _recomputed(
    block: nn.Module, forward: Callable[..., Any], contexts: dict[str, Any], *inputs: Any, **options: Any
) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*inputs, **options)
    return checkpoint(partial(forward, **options), *inputs, use_reentrant=False, **contexts)


def _contexts(block: nn.Module) -> tuple[Any, Any]:
    return nullcontext(), _frozen_statistics(block)


@contextmanager
def _frozen_statistics(block: nn.Module) -> Iterator[None]:
    """Batch norms of a second pass must not count its batch a second time."""
    norms = _norms(block)
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked

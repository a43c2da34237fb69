"""The steps that methods share: pseudo-labels, mixing, keyed perturbations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from unimatch import keyed
from unimatch.data.sample import Labeled, Unlabeled
from unimatch.losses import PseudoLabels
from unimatch.methods.base import ConsistencyLoss, Logs, Method
from unimatch.mixing import joined, paste, swap_pairs

__all__ = [
    "Pseudo",
    "blind_logits",
    "channel_dropout",
    "complementary_dropout",
    "joined",
    "keyed_normal",
    "keyed_uniform",
    "logged",
    "mixed_pseudo_label",
    "mixed_strong",
    "partner_logits",
    "partner_pseudo_label",
    "paste",
    "pseudo_label",
    "pseudo_stats",
    "strong_losses",
    "swap_pairs",
    "twin_dropout",
    "weak_to_strong",
]


Pseudo = tuple[Tensor, Tensor]
"""(conf float32, labels int64) [B, H, W]"""


def pseudo_label(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(conf float32, labels int64), [B, H, W]: maximum and argmax of the softmax, without a gradient."""
    conf, labels = logits.detach().float().softmax(dim=1).max(dim=1)
    return conf, labels


def partner_pseudo_label(net: nn.Module, unlabeled: Unlabeled) -> tuple[Tensor, Tensor] | None:
    """(conf, labels) of what is pasted into the boxes, or None where the partner is in the batch.

    A partner from another crop takes a pass of its own, in eval mode and without a gradient, as in the
    reference; `net` is left in eval mode. A partner in the batch is predicted with the batch: see
    `mixed_pseudo_label`.
    """
    if unlabeled.partner_in_batch:
        return None
    assert unlabeled.partner is not None, "mixing needs a partner"
    return pseudo_label(blind_logits(net, unlabeled.partner.weak))


def mixed_pseudo_label(
    conf: Tensor, labels: Tensor, partner: tuple[Tensor, Tensor] | None, box: Tensor
) -> tuple[Tensor, Tensor]:
    """(conf, labels) of a mixed view: the images' own, inside the box the partner's.

    Without a partner it is the neighbour in the batch.
    A neighbour's pseudo-label comes from the train-mode pass over the weak views, since that has just been
    made; it costs no pass of its own, and that is the one difference from the eval-mode pass above.
    """
    partner_conf, partner_labels = partner or (swap_pairs(conf), swap_pairs(labels))
    return paste(conf, partner_conf, box), paste(labels, partner_labels, box)


def mixed_strong(unlabeled: Unlabeled) -> Tensor:
    """[V * B, ..., C, H, W]: the strong views one after another, each mixed inside its own box."""
    assert unlabeled.partner is not None, "mixing needs a partner"
    views = zip(unlabeled.strong, unlabeled.partner.strong, unlabeled.boxes, strict=True)
    return joined([paste(strong, partner, box) for strong, partner, box in views])


def blind_logits(net: nn.Module, image: Tensor, train: bool = False) -> Tensor:
    """[B, K, H, W] without a graph, in eval mode or in train mode, in which `net` is left."""
    net.train(train)
    with torch.no_grad():
        logits: Tensor = net(image)["logits"]
    # Autocast may keep the weights that it cast here, without a graph, for the passes that need one.
    torch.clear_autocast_cache()
    return logits


def partner_logits(predict: Callable[[Tensor], Tensor], logits: Tensor, unlabeled: Unlabeled) -> Tensor:
    """The logits of what is pasted: of a pass of its own, or those of the neighbours in the batch."""
    if unlabeled.partner_in_batch:
        return swap_pairs(logits)
    assert unlabeled.partner is not None, "mixing needs a partner"
    return predict(unlabeled.partner.weak)


def logged(**terms: Tensor) -> dict[str, Tensor]:
    """Log entries of loss terms."""
    return {name: term.detach() for name, term in terms.items()}


def strong_losses(
    loss: ConsistencyLoss,
    logits: Tensor,
    conf: Tensor,
    labels: Tensor,
    partner: tuple[Tensor, Tensor] | None,
    unlabeled: Unlabeled,
    threshold: float,
) -> list[Tensor]:
    """The loss of each mixed strong view against the pseudo-labels, mixed alike, times the view's share.

    logits: [V * B, K, H, W] of `mixed_strong`; conf, labels: of the weak views; partner: as for
    `mixed_pseudo_label`.
    """
    found = []
    for view, each in enumerate(logits.chunk(len(unlabeled.boxes))):
        mixed_conf, mixed_labels = mixed_pseudo_label(conf, labels, partner, unlabeled.boxes[view])
        term = loss(each, PseudoLabels(mixed_labels, mixed_conf, unlabeled.mixed_valid[view], threshold))
        found.append(term * unlabeled.mixed_share[view])
    return found


def weak_to_strong(
    method: Method,
    x: Labeled,
    u: Unlabeled,
    logits_x: Tensor,
    logits_s: Tensor,
    pseudo: Pseudo,
    partner: Pseudo | None,
) -> tuple[Tensor, Logs]:
    """L = (1 - w) * L_x + w * the mean of the strong views' losses, and what a step logs.

    logits_x, logits_s: of the labelled images and of `mixed_strong`; pseudo: of the weak views; partner: as
    for `mixed_pseudo_label`.
    """
    threshold, weight = method.config.threshold, method.config.unsupervised_weight
    loss_x = method.supervised_loss(logits_x, x.label) * x.share
    losses = strong_losses(method.consistency_loss, logits_s, *pseudo, partner, u, threshold)
    loss = (1.0 - weight) * loss_x + weight * sum(losses[1:], losses[0]) / len(losses)
    names = ["loss_s"] if len(losses) == 1 else [f"loss_s{number}" for number in range(1, len(losses) + 1)]
    logs = logged(loss=loss, loss_x=loss_x, **dict(zip(names, losses, strict=True)))
    return loss, logs | pseudo_stats(*pseudo, u, threshold, num_classes=logits_x.shape[1])


def pseudo_stats(
    conf: Tensor, labels: Tensor, unlabeled: Unlabeled, threshold: float, num_classes: int
) -> dict[str, Tensor]:
    """The log entries "kept" (times the share) and "pseudo_hist", see Method.step."""
    kept = unlabeled.valid & (conf >= threshold)
    counts = torch.zeros(num_classes, dtype=torch.int64, device=labels.device)
    counts.scatter_add_(0, labels.flatten(), kept.flatten().long())
    total = counts.sum()
    return {
        "kept": total / unlabeled.valid.sum().clamp(min=1) * unlabeled.share,
        "pseudo_hist": counts / total.clamp(min=1),
    }


def _shift_right(values: Tensor, count: int) -> Tensor:
    """The logical shift of 64 bits; torch's own, of a signed integer, would copy the sign."""
    return (values >> count) & ((1 << (64 - count)) - 1)


def keyed_uniform(key: Tensor, count: int) -> Tensor:
    """float64 [B, count], uniform in [0, 1): row b equals keyed.uniform(key[b], count) to the bit.

    key: int64 [B], 64-bit keys as signed integers, on any device. Products and sums wrap, as uint64's do.
    """
    counter = torch.arange(1, count + 1, dtype=torch.int64, device=key.device)
    bits = key[:, None] + keyed.signed(keyed.GOLDEN) * counter
    bits = (bits ^ _shift_right(bits, 30)) * keyed.signed(keyed.MIX_1)
    bits = (bits ^ _shift_right(bits, 27)) * keyed.signed(keyed.MIX_2)
    bits = bits ^ _shift_right(bits, 31)
    return _shift_right(bits, 11).double() * 2.0**-53


def keyed_normal(key: Tensor, count: int) -> Tensor:
    """float32 [B, count] of the standard normal law, row b by key[b] alone (Box and Muller, 1958)."""
    one, other = keyed_uniform(key, 2 * count).float().chunk(2, dim=1)
    return (-2.0 * torch.log1p(-one.clamp(max=1.0 - 2.0**-24))).sqrt() * torch.cos(2.0 * torch.pi * other)


def channel_dropout(features: list[Tensor], key: Tensor, p: float) -> list[Tensor]:
    """Each feature map [B, C, h, w] with channels set to 0 with probability p, the others divided by 1 - p.

    The channels of image b are chosen by key[b] alone, every level from its own part of the key's numbers, so
    that levels are independent and the choice does not depend on which process holds the image.
    """
    device = features[0].device
    draws = keyed_uniform(key.to(device), sum(level.shape[1] for level in features))
    masks = draws.split([level.shape[1] for level in features], dim=1)
    return [
        level * ((mask >= p).to(level.dtype) / (1.0 - p))[..., None, None]
        for level, mask in zip(features, masks, strict=True)
    ]


def twin_dropout(key: Tensor, p: float) -> Callable[[list[Tensor]], list[Tensor]]:
    """A perturbation for `net`: the features as they are, then a copy with channel dropout; 2B images."""

    def perturb(features: list[Tensor]) -> list[Tensor]:
        dropped = channel_dropout(features, key, p)
        return [torch.cat(pair) for pair in zip(features, dropped, strict=True)]

    return perturb


def complementary_dropout(key: Tensor) -> Callable[[list[Tensor]], list[Tensor]]:
    """A perturbation for `net` on two views of B images, one view after the other (2B images).

    A channel of image b stands, doubled, in exactly one of its two views: in the first one with probability
    1/2, by key[b] alone. All levels take the same choice for their channel of a number, and all positions. Of
    each pair of neighbours (0 and 1, 2 and 3, ...) one image, by the first one's key, is left whole in both
    views; an odd last image never is.
    """

    def perturb(features: list[Tensor]) -> list[Tensor]:
        count, most = len(key), max(level.shape[1] for level in features)
        draws = keyed_uniform(key.to(features[0].device), most + 1)
        first = (draws[:, :most] >= 0.5).float() * 2.0
        index = torch.arange(count, device=draws.device)
        chosen = (draws[index & ~1, most] >= 0.5).long()  # which of the pair
        paired = (index | 1) < count
        whole = paired & ((index & 1) == chosen)
        first = torch.where(whole[:, None], torch.ones_like(first), first)
        factors = torch.cat([first, torch.where(whole[:, None], first, 2.0 - first)])
        return [level * factors[:, : level.shape[1], None, None].to(level.dtype) for level in features]

    return perturb

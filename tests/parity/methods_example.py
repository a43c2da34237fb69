"""Prints every loss term of every method for fixed tensors, so that another implementation can be compared.

Run: python tests/parity/methods_example.py [--save FILE.npz]

Inputs and weights come from a counter-based generator, so they are equal on any machine; --save writes
them to a file. docs/parity.md describes them and the network.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatch import keyed
from unimatch.data.sample import Batch, Labeled, Partner, Unlabeled
from unimatch.losses import LossConfig, masked_consistency, supervised_loss
from unimatch.methods import METHODS, Method, Progress
from unimatch.methods.ops import complementary_dropout, keyed_uniform
from unimatch.mixing import paste, swap_pairs
from unimatch.taxonomy import IGNORE_INDEX
from unimatch.views.masks import rectangle_mask

SEED, BATCH, CLASSES, SIDE = 7, 2, 4, 12
LOW, HIGH = 4, 6  # channels of the two feature levels
FEATURE_DROPOUT = 0.5
# In (x0, y0, x1, y1): what of a crop is image and not padding, and the box of each strong view.
CONTENT = ((0, 0, 12, 12), (3, 0, 12, 10))
PARTNER_CONTENT = ((0, 0, 9, 12), (0, 0, 12, 12))
BOXES = (((2, 3, 8, 9), (0, 0, 0, 0)), ((5, 0, 12, 7), (1, 6, 9, 12)))  # [view][image]


def numbers(name: str, *shape: int) -> Tensor:
    """float32, uniform in [-1, 1), from a key made of the name."""
    values = keyed.uniform(keyed.key(SEED, *name.encode()), int(np.prod(shape)))
    return torch.from_numpy((2 * values - 1).astype(np.float32)).view(shape)


class Net(nn.Module):
    """low = ReLU(BN(conv 3x3)), high = ReLU(BN(conv 3x3 / 2)), logits = conv 1x1 of (low, resized high)."""

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.Conv2d(3, LOW, 3, padding=1)
        self.low_norm = nn.BatchNorm2d(LOW)
        self.high = nn.Conv2d(LOW, HIGH, 3, stride=2, padding=1)
        self.high_norm = nn.BatchNorm2d(HIGH)
        self.classifier = nn.Conv2d(LOW + HIGH, CLASSES, 1)
        state = {name: 0.5 * numbers(name, *value.shape) for name, value in self.named_parameters()}
        state |= {name: 1 + value for name, value in state.items() if name.endswith("norm.weight")}
        state["classifier.weight"] = 4 * state["classifier.weight"]  # confident enough to pass a threshold
        for norm, channels in (("low_norm", LOW), ("high_norm", HIGH)):
            state[f"{norm}.running_mean"] = 0.1 * numbers(f"{norm}.running_mean", channels)
            state[f"{norm}.running_var"] = 0.3 + 0.1 * numbers(f"{norm}.running_var", channels)
            state[f"{norm}.num_batches_tracked"] = torch.tensor(0)
        self.load_state_dict(state)

    def forward(self, image: Tensor, perturb: Callable[[list[Tensor]], list[Tensor]] | None = None):
        low = torch.relu(self.low_norm(self.low(image)))
        features = [low, torch.relu(self.high_norm(self.high(low)))]
        if perturb is not None:
            features = perturb(features)
        high = F.interpolate(features[1], size=image.shape[-2:], mode="bilinear", align_corners=True)
        return {"logits": self.classifier(torch.cat([features[0], high], dim=1))}


def make_batch(partner: str = "other") -> Batch:
    """The fixed micro-batch; partner: "other" (given crops) or "batch" (the neighbour)."""
    shape = (BATCH, 3, SIDE, SIDE)
    label = ((numbers("y", BATCH, SIDE, SIDE) + 1) / 2 * CLASSES).long()
    label[numbers("ignored", BATCH, SIDE, SIDE) < -0.8] = IGNORE_INDEX
    weak = numbers("weak", *shape)
    strong = tuple(weak + 0.3 * numbers(f"strong{view}", *shape) for view in (1, 2))
    valid = rectangle_mask(torch.tensor(CONTENT), SIDE, SIDE)
    boxes = tuple(rectangle_mask(torch.tensor(box), SIDE, SIDE) for box in BOXES)
    if partner == "batch":
        other = Partner(swap_pairs(weak), tuple(swap_pairs(view) for view in strong), swap_pairs(valid))
    else:
        partner_weak = numbers("partner_weak", *shape)
        partner_strong = tuple(
            partner_weak + 0.3 * numbers(f"partner_strong{view}", *shape) for view in (1, 2)
        )
        other = Partner(
            partner_weak, partner_strong, rectangle_mask(torch.tensor(PARTNER_CONTENT), SIDE, SIDE)
        )
    mixed_valid = tuple(paste(valid, other.valid, box) for box in boxes)
    noise = torch.tensor([keyed.signed(keyed.key(SEED, 99, image)) for image in range(2 * BATCH)])
    one = torch.ones(())
    labeled = Labeled(numbers("x", *shape), label, noise[:BATCH], one)
    unlabeled = Unlabeled(
        weak, strong, valid, boxes, other, partner == "batch", mixed_valid, noise[BATCH:], one, (one, one)
    )
    return Batch(labeled, unlabeled)


def first_view(batch: Batch) -> Batch:
    """The batch with one strong view, as FixMatch asks for it."""
    u = batch.unlabeled
    assert u is not None and u.partner is not None
    partner = replace(u.partner, strong=u.partner.strong[:1])
    return replace(batch, unlabeled=replace(
        u, strong=u.strong[:1], boxes=u.boxes[:1], partner=partner, mixed_valid=u.mixed_valid[:1],
        mixed_share=u.mixed_share[:1],
    ))  # fmt: skip


# Name of a case: method, its settings, the supervised loss, the partner.
OHEM = LossConfig("ohem", ohem_threshold=0.2, ohem_min_kept_per_image=60)
CASES = {
    "supervised": ("supervised", {}, LossConfig(), "other"),
    "supervised, OHEM": ("supervised", {}, OHEM, "other"),
    "fixmatch": ("fixmatch", {"threshold": 0.6}, LossConfig(), "other"),
    "fixmatch, tau 0": ("fixmatch", {"threshold": 0.0}, LossConfig(), "other"),
    "fixmatch, partner in batch": (
        "fixmatch",
        {"threshold": 0.6, "mix_partner": "batch"},
        LossConfig(),
        "batch",
    ),
    "unimatch, no dropout": ("unimatch", {"threshold": 0.6, "feature_dropout": 0.0}, LossConfig(), "other"),
    "unimatch": ("unimatch", {"threshold": 0.6, "feature_dropout": FEATURE_DROPOUT}, LossConfig(), "other"),
    "unimatch, OHEM, tau 0": ("unimatch", {"threshold": 0.0}, OHEM, "other"),
    "unimatch, partner in batch": (
        "unimatch",
        {"threshold": 0.6, "mix_partner": "batch"},
        LossConfig(),
        "batch",
    ),
    "mean_teacher, partner in batch": (
        "mean_teacher",
        {"threshold": 0.6, "mix_partner": "batch"},
        LossConfig(),
        "batch",
    ),
    "unimatch_v2": ("unimatch_v2", {"threshold": 0.6}, LossConfig(), "batch"),
    "unimatch_v2, no dropout": (
        "unimatch_v2",
        {"threshold": 0.6, "complementary_dropout": False},
        LossConfig(),
        "batch",
    ),
    "unimatch_v2, OHEM, other partner": (
        "unimatch_v2",
        {"threshold": 0.6, "mix_partner": "same"},
        OHEM,
        "other",
    ),
}


def first_step(case: str) -> tuple[Net, Method, tuple[Tensor, dict[str, Tensor]]]:
    """The network, the method, and the loss and the logs of one case's first step from the fixed weights."""
    name, settings, loss, partner = CASES[case]
    entry = METHODS[name]
    method = entry.cls(
        entry.config(**settings),
        lambda logits, labels: supervised_loss(loss, logits, labels),
        masked_consistency,
    )
    batch, net = make_batch(partner), Net()
    if method.views.num_strong == 1:
        batch = first_view(batch)
    method.begin(net)
    return net, method, method.step(net, batch, Progress(step=0, total_steps=1, epoch=0))


def terms(case: str) -> dict[str, Tensor]:
    """Every logged value of that step."""
    return first_step(case)[2][1]


def arrays() -> dict[str, np.ndarray]:
    """Inputs and weights by name, the channels that the feature dropout keeps (of x, then of u), and the
    factors of complementary dropout (of the first strong view, then of the second).
    """
    batch = make_batch()
    x, u = batch.labeled, batch.unlabeled
    assert u is not None and u.partner is not None
    kept = keyed_uniform(torch.cat([x.noise_key, u.noise_key]), LOW + HIGH) >= FEATURE_DROPOUT
    levels = [torch.ones(2 * BATCH, channels, 1, 1) for channels in (LOW, HIGH)]
    factors = [level[..., 0, 0] for level in complementary_dropout(u.noise_key)(levels)]
    values = {
        "x": x.image, "y": x.label, "weak": u.weak, "strong1": u.strong[0], "strong2": u.strong[1],
        "valid": u.valid, "box1": u.boxes[0], "box2": u.boxes[1], "partner_weak": u.partner.weak,
        "partner_strong1": u.partner.strong[0], "partner_strong2": u.partner.strong[1],
        "partner_valid": u.partner.valid, "kept_low": kept[:, :LOW], "kept_high": kept[:, LOW:],
        "factor_low": factors[0], "factor_high": factors[1],
    }  # fmt: skip
    values |= {f"net.{name}": value for name, value in Net().state_dict().items()}
    return {name: value.numpy() for name, value in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Print every loss term of every method for fixed tensors.")
    parser.add_argument(
        "--save", metavar="FILE.npz", help="also write inputs, weights and dropout masks there"
    )
    arguments = parser.parse_args()
    for case in CASES:
        print(case)
        for name, value in terms(case).items():
            print(f"  {name:<12}", " ".join(f"{number:.6f}" for number in value.flatten().tolist()))
    if arguments.save:
        np.savez(arguments.save, **arrays())
        print(f"wrote {arguments.save}")


if __name__ == "__main__":
    main()

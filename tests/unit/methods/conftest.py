"""A network of two feature levels that obeys the contract of methods, and batches for it."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatch.data.sample import Batch, Labeled, Partner, Unlabeled
from unimatch.methods.base import ViewNeeds
from unimatch.methods.ops import paste, swap_pairs
from unimatch.taxonomy import IGNORE_INDEX

SIDE = 8
CLASSES = 3


class TinyHead(nn.Module):
    """Logits of the first feature's size."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(10, CLASSES, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        high = F.interpolate(features[1], size=features[0].shape[-2:], mode="bilinear", align_corners=True)
        return self.classifier(torch.cat([features[0], high], dim=1))


class TinyNet(nn.Module):
    """Records the mode, the images and the logits of each pass; `norm` adds a batch-norm."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.low = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.high = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.head = TinyHead()
        self.encoder = SimpleNamespace(channels=[4, 6])
        self.passes: list[tuple[bool, bool, int]] = []
        self.images: list[Tensor] = []
        self.outputs: list[Tensor] = []

    def forward(self, image: Tensor, perturb: Callable[[list[Tensor]], list[Tensor]] | None = None):
        self.images.append(image.detach())
        self.passes.append((self.training, torch.is_grad_enabled(), len(image)))
        low = torch.relu(self.norm(self.low(image)))
        features = [low, torch.relu(self.high(low))]
        if perturb is not None:
            features = perturb(features)
        logits = self.head(features)
        self.outputs.append(logits.detach())
        return {"logits": logits}


@pytest.fixture
def make_net():
    def make(norm: bool = False, seed: int = 0) -> TinyNet:
        torch.manual_seed(seed)
        return TinyNet(norm)

    return make


@pytest.fixture
def make_batch():
    """A batch whose classes are the brightest channel, with ignored labels, padding and boxes."""

    def make(
        size: int = 4,
        views: int = 2,
        partner: str = "same",
        seed: int = 0,
        needs: ViewNeeds | None = None,
    ) -> Batch:
        """needs: of a method, in place of `views` and `partner`."""
        if needs is not None:
            views, partner = needs.num_strong, needs.partner or "batch"
        generator = torch.Generator().manual_seed(seed)

        def noise(scale: float = 1.0) -> Tensor:
            return scale * torch.randn(size, 3, SIDE, SIDE, generator=generator)

        def key() -> Tensor:
            return torch.randint(-(2**62), 2**62, (size,), generator=generator)

        image = noise()
        label = image.argmax(dim=1)
        label[torch.rand(label.shape, generator=generator) < 0.2] = IGNORE_INDEX
        weak, valid = noise(), torch.ones(size, SIDE, SIDE, dtype=torch.bool)
        valid[0, :, SIDE - 2 :] = False
        strong = tuple(weak + noise(0.3) for _ in range(views))
        boxes = tuple(torch.zeros(size, SIDE, SIDE, dtype=torch.bool) for _ in range(views))
        for view, box in enumerate(boxes):
            box[view::2, 1 : 5 + view, 2:7] = True
        if partner == "batch":
            other = Partner(swap_pairs(weak), tuple(swap_pairs(s) for s in strong), swap_pairs(valid))
        else:
            partner_weak, partner_valid = noise(), torch.ones(size, SIDE, SIDE, dtype=torch.bool)
            partner_valid[-1, SIDE - 3 :] = False
            other = Partner(
                partner_weak, tuple(partner_weak + noise(0.3) for _ in range(views)), partner_valid
            )
        mixed_valid = tuple(paste(valid, other.valid, box) for box in boxes)
        one = torch.ones(())
        batch = Batch(
            Labeled(image, label, key(), one),
            Unlabeled(
                weak, strong, valid, boxes, other, partner == "batch", mixed_valid, key(), one, (one,) * views
            ),
        )
        if needs is not None and batch.unlabeled is not None:
            for number, (name, _) in enumerate(needs.areas):
                area = torch.zeros(size, SIDE, SIDE, dtype=torch.bool)
                area[:, 2 : 6 + number, 3 - number : 7] = True
                batch.unlabeled.areas[name] = area
            if needs.strong_labeled:
                batch.labeled.strong = image + noise(0.3)
            if needs.labeled_areas:
                batch.labeled.pseudo = torch.arange(size) % 3 == 1
            for name, _ in needs.labeled_areas:
                area = torch.zeros(size, SIDE, SIDE, dtype=torch.bool)
                area[: size // 2, 1:4, 2:7] = True
                batch.labeled.areas[name] = area
        return batch

    return make

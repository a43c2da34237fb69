"""What is noted of a network on its way over images, against the same by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.unit.tasks.test_natural import make_task
from unimatch.predicting.looks import Watched, look
from unimatch.tasks import prediction


class Net(nn.Module):
    """Logits of a pixel from its own values and those left of it: its mirror image says something else."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))

    def forward(self, image: Tensor, perturb=None) -> dict[str, Tensor]:
        features = [image, image * 2 + 1]
        if perturb is not None:
            features = perturb(features)
        mixed = features[0] + features[0].roll(1, dims=-1)
        return {"logits": torch.einsum("kc,bchw->bkhw", self.weight, mixed)}


def images(count: int, height: int = 6, width: int = 8) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, height, width, 3), generator=draw, dtype=torch.uint8)


def test_a_look_is_entropy_shares_features_and_the_mirrored_image():
    task, net, batch = make_task(), Net(), images(3)
    found = look(task, Watched(net), batch)
    with torch.no_grad():
        values = task.normalize(batch)
        probability = net(values)["logits"].softmax(1)
        ids = probability.argmax(1)
        mirrored = net(values.flip(-1))["logits"].argmax(1).flip(-1)
    for number, one in enumerate(found):
        entropy = -(probability[number] * probability[number].log()).sum(0).mean() / math.log(3)
        assert one.entropy == pytest.approx(float(entropy), rel=1e-5)
        assert one.shares == pytest.approx(np.bincount(ids[number].flatten(), minlength=3) / 48)
        assert one.disagreement == pytest.approx(float((ids != mirrored)[number].float().mean()))
        assert one.disagreement > 0
        feature = (2 * values[number] + 1).mean((1, 2)).numpy()
        assert one.feature == pytest.approx(feature / np.linalg.norm(feature), rel=1e-4, abs=1e-6)


def test_windows_of_a_batch_belong_to_their_images():
    task, batch = make_task(mode="sliding", window=4, stride=3), images(2)
    together = look(task, Watched(Net()), batch)
    alone = [look(task, Watched(Net()), one[None])[0] for one in batch]
    for one, same in zip(together, alone, strict=True):
        assert one.entropy == pytest.approx(same.entropy, rel=1e-5)
        assert one.feature == pytest.approx(same.feature, rel=1e-4)
    assert together[0].entropy != pytest.approx(together[1].entropy, rel=1e-3)


def test_all_windows_count(monkeypatch: pytest.MonkeyPatch):
    class Noting(Net):
        def forward(self, image: Tensor, perturb=None) -> dict[str, Tensor]:
            out = super().forward(image, perturb)
            logp = out["logits"].log_softmax(1)
            entropies.extend((-(logp.exp() * logp).sum(1) / math.log(3)).flatten().tolist())
            return out

    monkeypatch.setattr(prediction, "WINDOWS_PER_PASS", 1)
    entropies: list[float] = []
    task = make_task(mode="sliding", window=4, stride=3)
    (found,) = look(task, Watched(Noting()), images(1), feature_only=True)
    assert len(entropies) > 2 * 16 and found.entropy == pytest.approx(np.mean(entropies), rel=1e-5)


def test_another_network_takes_the_place_of_the_mirrored_image():
    task, net, batch = make_task(), Net(), images(2)
    assert [one.disagreement for one in look(task, Watched(net), batch, net)] == [0, 0]
    opposite = Net()
    opposite.weight.data.neg_()
    assert all(one.disagreement == 1 for one in look(task, Watched(net), batch, opposite))


def test_what_lies_around_the_middle_counts_for_nothing():
    task = make_task(mode="centre", window=4)
    (found,) = look(task, Watched(Net()), images(1), Net())
    assert found.shares.sum() == pytest.approx(1)
    assert found.disagreement == 0
    opposite = Net()
    opposite.weight.data.neg_()
    (found,) = look(task, Watched(Net()), images(1), opposite)
    assert found.disagreement == 1

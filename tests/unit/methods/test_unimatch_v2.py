"""UniMatch V2: its loss on numbers made by hand, and the channels that its two strong views share."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from tests.unit.methods.test_every_method import FixedNet, part, two_classes, two_pixel_batch
from unimatch import keyed
from unimatch.errors import ConfigError
from unimatch.losses import cross_entropy, masked_consistency
from unimatch.methods import METHODS, Progress, ViewNeeds
from unimatch.methods.ops import complementary_dropout, pseudo_label
from unimatch.taxonomy import IGNORE_INDEX

START = Progress(step=0, total_steps=20, epoch=0)


def build(net: nn.Module, **settings):
    entry = METHODS["unimatch_v2"]
    method = entry.cls(entry.config(**settings), cross_entropy, masked_consistency)
    method.begin(net)
    return method


@pytest.mark.parametrize("whose", ["teacher", "student"])
def test_on_hand_made_logits(whose: str, make_batch):
    partner, weak = two_classes(0.01, 0.97), two_classes(0.02, 0.4)  # pixel 1 of the partner, 0 of the image
    own = [two_classes(0.8, 0.1), torch.cat([two_classes(0.3, 0.6), two_classes(0.2, 0.9)])]  # x, strong
    net = FixedNet(*own) if whose == "teacher" else FixedNet(partner, weak, *own)
    method = build(net, mix_partner="same", pseudo_labels=whose)
    method.teacher.net.answers = [weak, partner]
    loss, logs = method.step(net, two_pixel_batch(make_batch, 2), START)
    terms = {
        "loss_x": -math.log(0.8),
        "loss_s1": (-math.log(0.7) - math.log(0.6)) / 2,  # pixel 1 lies in the box and is the partner's
        "loss_s2": (-math.log(0.8) - math.log(0.9)) / 2,
    }
    for name, value in terms.items():
        assert float(logs[name]) == pytest.approx(value), name
    expected = (terms["loss_x"] + (terms["loss_s1"] + terms["loss_s2"]) / 2) / 2
    assert float(loss) == float(logs["loss"]) == pytest.approx(expected)
    assert float(logs["kept"]) == 0.5 and logs["pseudo_hist"].tolist() == [1.0, 0.0]


def test_the_weak_view_never_goes_through_the_student(make_net, make_batch):
    net = make_net(norm=True)
    method, batch = build(net, threshold=0.0), make_batch(partner="batch")
    before = copy.deepcopy(method.teacher.net.state_dict())
    batch.unlabeled.weak.requires_grad_()
    loss, logs = method.step(net, batch, START)
    loss.backward()
    assert method.teacher.net.passes == [(False, False, 4)]
    assert net.passes == [(True, True, 4), (True, True, 8)] and net.training
    assert batch.unlabeled.weak.grad is None
    assert all(torch.equal(value, before[name]) for name, value in method.teacher.net.state_dict().items())
    assert all(p.grad is None for p in method.teacher.net.parameters())
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())
    assert not any(value.requires_grad for value in logs.values())
    assert method.after_update(net, START) is None
    assert all(torch.equal(v, net.state_dict()[name]) for name, v in method.teacher.net.state_dict().items())
    assert list(method.eval_nets(net)) == ["ema", "model"]


def test_the_students_own_pseudo_labels_take_its_mode_and_no_gradient(make_net, make_batch):
    net = make_net(norm=True)
    method, batch = build(net, threshold=0.0, pseudo_labels="student"), make_batch(partner="batch")
    batch.unlabeled.weak.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = method.step(net, batch, START)
    loss.backward()
    assert net.passes == [(True, False, 4), (True, True, 4), (True, True, 8)]
    assert method.teacher.net.passes == [] and batch.unlabeled.weak.grad is None
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_the_teacher_predicts_in_the_precision_of_the_run(make_net):
    method = build(make_net())
    assert method.teacher.logits(torch.zeros(1, 3, 8, 8)).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = method.teacher.logits(torch.zeros(1, 3, 8, 8))
    assert logits.dtype == torch.bfloat16 and logits.is_inference()
    assert not any(made.is_inference() for made in pseudo_label(logits))
    assert next(method.teacher.net.parameters()).dtype == torch.float32


def test_the_views_and_settings():
    entry = METHODS["unimatch_v2"]
    views = entry.cls(entry.config(), cross_entropy, masked_consistency).views
    assert views == ViewNeeds(2, "batch", True)
    with pytest.raises(ConfigError, match="ema_decay"):
        entry.config(ema_decay=1.0)


def test_without_dropout_the_features_are_left_alone(make_net, make_batch):
    """Then the first strong view is the mean teacher's, in a net without batch-norm."""
    net, batch = make_net(), make_batch(partner="batch")
    _, logs = build(net, threshold=0.4, complementary_dropout=False).step(net, batch, START)
    entry = METHODS["mean_teacher"]
    other = entry.cls(entry.config(threshold=0.4, mix_partner="batch"), cross_entropy, masked_consistency)
    other.begin(net)
    u = dataclasses.replace(
        batch.unlabeled, strong=batch.unlabeled.strong[:1], boxes=batch.unlabeled.boxes[:1]
    )
    u.partner = dataclasses.replace(u.partner, strong=u.partner.strong[:1])
    _, theirs = other.step(net, dataclasses.replace(batch, unlabeled=u), START)
    torch.testing.assert_close(logs["loss_s1"], theirs["loss_s"])
    _, dropped = build(net, threshold=0.4).step(net, batch, START)
    assert float(dropped["loss_s1"]) != pytest.approx(float(logs["loss_s1"]), rel=0.01)


@pytest.mark.parametrize("whose", ["teacher", "student"])
def test_parts_of_a_batch_have_the_loss_and_the_gradient_of_the_whole(whose: str, make_net, make_batch):
    """Masks come from keys, so that processes and micro-batches change nothing."""
    net, batch = make_net().double(), make_batch(size=4, partner="batch")
    batch.labeled.label[0, :5] = IGNORE_INDEX
    for owner in (batch.labeled, batch.unlabeled, batch.unlabeled.partner):
        for field in ("image", "weak", "strong"):
            value = getattr(owner, field, None)
            if value is not None:
                double = tuple(v.double() for v in value) if isinstance(value, tuple) else value.double()
                setattr(owner, field, double)
    method = build(net, threshold=0.4, pseudo_labels=whose)
    u = batch.unlabeled
    counts = [int((batch.labeled.label != IGNORE_INDEX).sum())]
    counts += [int(mask.sum()) for mask in (u.valid, *u.mixed_valid)]
    whole, _ = method.step(net, batch, START)
    halves = [method.step(net, part(batch, keep, counts, 2), START)[0] for keep in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close((halves[0] + halves[1]) / 2, whole, rtol=1e-6, atol=0)
    gradients = [torch.autograd.grad(loss, list(net.parameters())) for loss in (whole, *halves)]
    for full, first, second in zip(*gradients, strict=True):
        torch.testing.assert_close((first + second) / 2, full, rtol=1e-5, atol=1e-8)


# Complementary dropout


def keys(count: int, seed: int = 1) -> Tensor:
    return torch.tensor([keyed.signed(keyed.key(seed, number)) for number in range(count)])


def factors(count: int, *channels: int) -> list[Tensor]:
    """[2, count, C] of each level: what each view's channels are multiplied by."""
    levels = complementary_dropout(keys(count))([torch.ones(2 * count, c, 2, 1) for c in channels])
    for level in levels:
        assert torch.equal(level[..., 0, 0], level[..., 1, 0]), "the same at all positions"
    return [level[..., 0, 0].view(2, count, -1) for level in levels]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_the_factors_written_out(count: int):
    (found,) = factors(count, 6)
    for image in range(count):
        draws = keyed.uniform(int(keys(count)[image]) % 2**64, 7)
        first_of_pair = keyed.uniform(int(keys(count)[image - image % 2]) % 2**64, 7)
        paired = image - image % 2 + 1 < count
        whole = paired and (first_of_pair[6] >= 0.5) == image % 2
        for channel in range(6):
            first = 1.0 if whole else 2.0 * float(draws[channel] >= 0.5)
            assert found[:, image, channel].tolist() == [first, 1.0 if whole else 2.0 - first]


def test_exactly_half_of_an_even_batch_is_whole_and_either_of_a_pair():
    (found,) = factors(400, 16)
    whole = (found == 1).all(2).all(0)
    assert (whole.view(200, 2).sum(1) == 1).all()
    assert abs(int(whole[::2].sum()) - 100) < 5 * 50**0.5
    dropped = found[:, ~whole]
    assert set(dropped.unique().tolist()) == {0.0, 2.0} and (dropped.sum(0) == 2).all()
    assert abs(float(dropped[0].mean()) - 1) < 5 / (200 * 16) ** 0.5


def test_every_level_has_the_same_choice_for_a_channel():
    deep, narrow = factors(6, 8, 3)
    assert torch.equal(deep[..., :3], narrow)


def test_the_type_of_the_features_is_kept():
    (found,) = complementary_dropout(keys(2))([torch.ones(4, 3, 1, 1).bfloat16()])
    assert found.dtype == torch.bfloat16

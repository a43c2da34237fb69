import numpy as np
import pytest
import torch

from unimatch import keyed
from unimatch.methods import ops

KEYS = [0, 1, 12345, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, keyed.key(7, 3, 2)]


def signed_keys() -> torch.Tensor:
    return torch.tensor([keyed.signed(key) for key in KEYS])


@pytest.mark.parametrize("count", [1, 2, 257])
def test_keyed_uniform_equals_numpy_to_the_bit(count):
    ours = ops.keyed_uniform(signed_keys(), count)
    assert ours.dtype == torch.float64
    assert np.array_equal(ours.numpy(), np.stack([keyed.uniform(key, count) for key in KEYS]))


def test_paste_takes_any_axes_between():
    generator = torch.Generator().manual_seed(0)
    box = torch.rand(2, 4, 5, generator=generator) < 0.5
    for axes in ((), (3,), (2, 3)):
        image, partner = torch.randn(2, 2, *axes, 4, 5, generator=generator).unbind(0)
        mixed = ops.paste(image, partner, box)
        assert mixed.shape == image.shape
        for b in range(2):
            for y in range(4):
                for x in range(5):
                    source = partner if box[b, y, x] else image
                    assert torch.equal(mixed[b, ..., y, x], source[b, ..., y, x])


@pytest.mark.parametrize(
    ("size", "order"), [(1, [0]), (2, [1, 0]), (5, [1, 0, 3, 2, 4]), (6, [1, 0, 3, 2, 5, 4])]
)
def test_swap_pairs_exchanges_neighbours(size, order):
    values = torch.arange(size)[:, None].expand(size, 3)
    assert ops.swap_pairs(values)[:, 0].tolist() == order


def test_swap_pairs_does_not_depend_on_how_even_micro_batches_are_cut():
    values = torch.arange(8)
    whole = ops.swap_pairs(values)
    assert torch.equal(whole, torch.cat([ops.swap_pairs(part) for part in values.split(2)]))
    assert torch.equal(whole, torch.cat([ops.swap_pairs(part) for part in values.split(4)]))


def test_pseudo_labels_by_hand_and_without_a_gradient():
    logits = torch.tensor([[0.0, 2.0], [1.0, 0.0]]).view(1, 2, 2, 1).requires_grad_()
    conf, labels = ops.pseudo_label(logits)
    assert labels.flatten().tolist() == [1, 0]
    torch.testing.assert_close(
        conf.flatten(), torch.tensor([1 / (1 + np.exp(-1)), 1 / (1 + np.exp(-2))]).float()
    )
    assert not conf.requires_grad
    assert ops.pseudo_label(logits.bfloat16())[0].dtype == torch.float32


def test_channel_dropout_is_dropout2d_with_the_numbers_of_the_keys():
    features = [torch.randn(len(KEYS), 5, 3, 2), torch.randn(len(KEYS), 7, 2, 2)]
    dropped = ops.channel_dropout(features, signed_keys(), 0.4)
    for b, key in enumerate(KEYS):
        draws = keyed.uniform(key, 12)
        for level, offset in ((0, 0), (1, 5)):
            for c in range(features[level].shape[1]):
                factor = 0.0 if draws[offset + c] < 0.4 else 1 / 0.6
                torch.testing.assert_close(dropped[level][b, c], features[level][b, c] * factor)


def test_channel_dropout_has_the_right_rate_and_independent_levels():
    key = torch.tensor([keyed.signed(keyed.key(1, b)) for b in range(200)])
    low, high = ops.channel_dropout([torch.ones(200, 64, 1, 1), torch.ones(200, 64, 1, 1)], key, 0.5)
    low, high = low.flatten(1), high.flatten(1)
    assert set(torch.cat([low, high]).unique().tolist()) == {0.0, 2.0}
    for level in (low, high):
        assert abs(float((level == 0).double().mean()) - 0.5) < 5 * 0.5 / 12800**0.5
    agree = float((low == high).double().mean())
    assert abs(agree - 0.5) < 5 * 0.5 / 12800**0.5


def test_channel_dropout_of_nothing_is_the_identity_and_keeps_the_type():
    features = [torch.randn(2, 3, 2, 2).bfloat16()]
    (same,) = ops.channel_dropout(features, torch.tensor([1, 2]), 0.0)
    assert torch.equal(same, features[0]) and same.dtype == torch.bfloat16


def test_twin_dropout_keeps_a_clean_copy_first():
    features = [torch.randn(2, 3, 2, 2), torch.randn(2, 4, 1, 1)]
    key = torch.tensor([3, 4])
    twins = ops.twin_dropout(key, 0.5)(features)
    dropped = ops.channel_dropout(features, key, 0.5)
    for twin, clean, perturbed in zip(twins, features, dropped, strict=True):
        assert torch.equal(twin, torch.cat([clean, perturbed]))


def test_mixed_strong_stacks_views_each_with_its_own_box(make_batch):
    u = make_batch(size=3).unlabeled
    mixed = ops.mixed_strong(u)
    for view in range(2):
        expected = ops.paste(u.strong[view], u.partner.strong[view], u.boxes[view])
        assert torch.equal(mixed[3 * view : 3 * view + 3], expected)


def test_pseudo_stats_count_valid_confident_pixels(make_batch):
    u = make_batch(size=2).unlabeled
    generator = torch.Generator().manual_seed(3)
    conf, labels = (
        torch.rand(2, 8, 8, generator=generator),
        torch.randint(0, 3, (2, 8, 8), generator=generator),
    )
    stats = ops.pseudo_stats(conf, labels, u, 0.6, num_classes=4)
    kept = [
        int(k)
        for k, c, v in zip(labels.flatten(), conf.flatten(), u.valid.flatten(), strict=True)
        if v and c >= 0.6
    ]
    assert float(stats["kept"]) == pytest.approx(len(kept) / int(u.valid.sum()))
    assert stats["pseudo_hist"].tolist() == pytest.approx([kept.count(k) / len(kept) for k in range(4)])
    nothing = ops.pseudo_stats(conf, labels, u, 1.1, num_classes=4)
    assert float(nothing["kept"]) == 0.0 and nothing["pseudo_hist"].tolist() == [0.0] * 4

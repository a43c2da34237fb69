"""What the methods that the field compares with are made of: segments, queues, components, noise, mixing."""

from __future__ import annotations

import copy
import math
from collections import deque

import numpy as np
import pytest
import torch

from tests.unit.methods.test_siblings import build
from unimatch.methods import Progress
from unimatch.methods.activation_maps import RefinedCAM
from unimatch.methods.adversarial import against
from unimatch.methods.agreement import confusions, weighted_iou
from unimatch.methods.base import Alone
from unimatch.methods.components import largest_components
from unimatch.methods.contrast import Queues, contrast, sample
from unimatch.methods.correlation import Correlation, followed, propagated
from unimatch.methods.mix import class_mix
from unimatch.methods.ops import keyed_normal, keyed_uniform
from unimatch.methods.parts import ProjectionHead
from unimatch.methods.reliability import Sorted, class_contrast

KEYS = torch.tensor([3, -11])


def largest_by_search(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Breadth first, over sides and corners."""
    kept = np.zeros_like(labels)
    for c in range(1, num_classes):
        seen, best = np.zeros(labels.shape, bool), []
        for place in np.argwhere(labels == c):
            if seen[tuple(place)]:
                continue
            found, queue = [], deque([tuple(place)])
            seen[tuple(place)] = True
            while queue:
                y, x = queue.popleft()
                found.append((y, x))
                for near in ((y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
                    inside = 0 <= near[0] < labels.shape[0] and 0 <= near[1] < labels.shape[1]
                    if inside and labels[near] == c and not seen[near]:
                        seen[near] = True
                        queue.append(near)
            best = max(best, found, key=len)
        for place in best:
            kept[place] = c
    return kept


@pytest.mark.parametrize("seed", range(4))
def test_the_largest_component_is_the_one_that_a_search_finds(seed):
    """Of smooth maps, which have few components of one size."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(3, 24, 31, 4))
    for axis in (1, 2):
        values = sum(np.roll(values, shift, axis) for shift in range(-2, 3))
    labels = values.argmax(-1)
    found = largest_components(torch.from_numpy(labels), 4).numpy()
    for ours, given in zip(found, labels, strict=True):
        theirs = largest_by_search(given, 4)
        assert [(ours == c).sum() for c in range(1, 4)] == [(theirs == c).sum() for c in range(1, 4)]
        assert ((ours == given) | (ours == 0)).all() and (ours != given).any()


def test_a_snake_and_a_diagonal_are_one_component():
    snake = torch.zeros(1, 12, 12, dtype=torch.long)
    for row in range(0, 12, 2):
        snake[0, row] = 1
        snake[0, row + 1, -1 if row % 4 == 0 else 0] = 1
    assert torch.equal(largest_components(snake, 2), snake)
    diagonal = torch.eye(9, dtype=torch.long)[None]
    assert torch.equal(largest_components(diagonal, 2), diagonal)
    assert not largest_components(torch.zeros(1, 4, 4, dtype=torch.long), 2).any()


def test_queues_keep_the_newest_and_only_what_is_kept():
    queues = Queues(2, 3)
    for number in range(5):
        features = torch.tensor([[[float(number)], [100.0]]] * 2)
        queues.push(features, torch.tensor([[True, False], [False, False]]))
    places, filled = queues.draw(50, 2)
    assert places.shape == (2, 50, 2) and filled.tolist() == [True, False]
    assert set(queues.features[0, places[0].flatten(), 0].tolist()) == {2.0, 3.0, 4.0}
    again = Queues(2, 3)
    again.load_state_dict(queues.state_dict(), torch.device("cpu"))
    assert torch.equal(again.features, queues.features) and torch.equal(again.pushed, queues.pushed)


def test_a_sample_is_of_the_mask_and_says_what_is_not():
    mask = torch.arange(100) % 3 == 0
    places, taken = sample(mask, 10)
    assert taken.all() and mask[places].all() and len(set(places.tolist())) == 10
    places, taken = sample(mask, 60)
    assert int(taken.sum()) == 34 and set(places[taken].tolist()) == set(range(0, 100, 3))
    assert len(sample(mask, 10**6)[0]) == 100


def test_contrast_written_out():
    torch.manual_seed(0)
    anchors, positive, negatives = torch.randn(3, 4), torch.randn(3, 4), torch.randn(5, 4)
    apart, places = torch.rand(3, 5) > 0.3, torch.tensor([[0, 0, 4], [1, 2, 3], [2, 2, 2]])

    def cosine(a, b) -> float:
        return float(a @ b / a.norm() / b.norm())

    for i, value in enumerate(contrast(anchors, positive, negatives, 0.5, apart).tolist()):
        near = math.exp(cosine(anchors[i], positive[i]) / 0.5)
        far = sum(math.exp(cosine(anchors[i], each) / 0.5) for each in negatives[apart[i]])
        assert value == pytest.approx(-math.log(near / (near + far)), rel=1e-5)
    for i, value in enumerate(contrast(anchors, positive, negatives, 0.5, places=places).tolist()):
        near = math.exp(cosine(anchors[i], positive[i]) / 0.5)
        far = sum(math.exp(cosine(anchors[i], negatives[place]) / 0.5) for place in places[i])
        assert value == pytest.approx(-math.log(near / (near + far)), rel=1e-5)


def test_u2pls_contrast_by_search():
    """Queues of one vector leave nothing to chance: the last one of each class is every negative."""
    torch.manual_seed(0)
    classes, side = 4, 3
    vectors, theirs = torch.randn(2, 5, side, side), torch.randn(2, 5, side, side)
    probability = (2 * torch.randn(2, classes, side, side)).softmax(1)
    labels = probability.argmax(1)
    labels[0, 0, 0] = (labels[0, 0, 0] + 1) % classes
    certain = torch.rand(2, side, side) > 0.3
    uncertain = torch.ones(2, side, side, dtype=torch.bool)
    certain[0] = True
    found = Sorted(labels, certain, uncertain, num_labeled=1)
    queues = Queues(classes, 1)
    loss = float(class_contrast(vectors, theirs, probability, found, (2, 20), queues, Alone()))

    order = probability.argsort(1, descending=True)
    terms = []
    for c in range(classes):
        anchors, positives, hard = [], [], 0
        for b, y, x in np.ndindex(2, side, side):
            rank = order[b, :, y, x].tolist().index(c)
            own = int(labels[b, y, x]) == c
            hard += (not own and rank < 2) if b == 0 else 2 <= rank < 20
            if own and certain[b, y, x]:
                positives.append(theirs[b, :, y, x])
                if probability[b, c, y, x] > 0.3:
                    anchors.append(vectors[b, :, y, x])
        if anchors and hard:
            positive = torch.stack(positives).mean(0)
            negatives = queues.features[c, :1].expand(50, -1)  # 50 times the same one
            each = contrast(torch.stack(anchors), positive[None], negatives, 0.5)
            terms.append(float(each.mean()))
        assert int(queues.pushed[c]) == hard
    assert len(terms) > 1 and loss == pytest.approx(np.mean(terms), rel=1e-5)


def test_class_mix_takes_half_of_the_classes_rounded_down():
    labels = torch.randint(0, 5, (2, 12, 12), generator=torch.Generator().manual_seed(0))
    labels[1] = labels[1].clamp(max=2)
    box = class_mix(labels, KEYS, 5)
    for image, count in ((0, 2), (1, 1)):
        taken = set(labels[image][box[image]].tolist())
        assert len(taken) == count and not taken & set(labels[image][~box[image]].tolist())
    assert torch.equal(box[:1], class_mix(labels[:1], KEYS[:1], 5)), "an image's own key alone decides"


def test_agreement_of_equal_and_of_foreign_maps():
    labels = torch.tensor([[[0, 1, 1, 2]]])
    other = torch.tensor([[[0, 1, 2, 2]]])
    valid = torch.ones(1, 1, 4, dtype=torch.bool)
    same = weighted_iou(confusions(labels, labels, valid, 3), None)
    assert same.item() == 1.0
    table = confusions(labels, other, valid, 3)
    assert table[0].tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
    assert weighted_iou(table, None).item() == pytest.approx((1 + 2 * 0.5 + 0.5) / 4)
    assert weighted_iou(table, 0).item() == pytest.approx((2 * 0.5 + 0.5) / 3)
    assert weighted_iou(confusions(labels * 0, labels * 0, valid, 3), 0).item() == 0.0


def test_noise_against_networks_moves_them_more_than_other_noise(make_net):
    nets = [make_net(norm=True, seed=seed) for seed in (1, 2)]
    torch.manual_seed(0)
    features = [torch.randn(2, 4, 8, 8), torch.randn(2, 6, 4, 4)]
    moved = against(nets, KEYS, 2.0)(features)
    noise = moved[1] - features[1]
    assert torch.equal(moved[0], features[0])
    torch.testing.assert_close(noise.flatten(1).norm(dim=1), torch.full((2,), 2.0))

    @torch.no_grad()
    def predicted(deep) -> torch.Tensor:
        return torch.stack([net.eval().head([features[0], deep]) for net in nets]).mean(0).log_softmax(1)

    def change(noise) -> float:
        before, after = predicted(features[1]), predicted(features[1] + noise)
        return float((before.exp() * (before - after)).sum())

    other = torch.randn(20, *noise.shape)
    other = 2.0 * other / other.flatten(2).norm(dim=2).view(20, 2, 1, 1, 1)
    assert change(noise) > 1.5 * max(change(each) for each in other)
    assert not noise.requires_grad and all(p.grad is None for net in nets for p in net.parameters())


def test_segments_take_one_class_where_enough_is_sure():
    """Four places in a row; the first two look alike, the last two do."""
    alike = torch.tensor([[[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5]]])

    class U:
        noise_key, valid = KEYS[:1], torch.ones(1, 1, 4, dtype=torch.bool)

    labels, conf = torch.tensor([[[1, 0, 2, 1]]]), torch.tensor([[[0.9, 0.3, 0.9, 0.9]]])
    for tau, expected in ((0.5, [1, 1, 2, 1]), (0.6, [1, 0, 2, 1])):
        made, found = propagated(alike, (1, 4), conf, labels, U, torch.tensor(tau), 4, 3)
        # One of two is sure, and of one class: half. Two of two are, of two classes: no class holds more.
        assert found[0, 0].tolist() == expected
        assert made[0, 0, 1].item() == pytest.approx(1.0 if tau == 0.5 else 0.3)


def test_correlation_is_a_softmax_over_places_and_takes_logits_without_a_graph():
    torch.manual_seed(0)
    head = Correlation(6, 3).eval()
    feature, logits = torch.randn(2, 6, 4, 5), torch.randn(2, 3, 4, 5, requires_grad=True)
    spread, alike = head(feature, logits, KEYS)
    torch.testing.assert_close(alike.sum(-1), torch.ones(2, 20))
    small = head.reduce(feature, KEYS)
    one, other = head.one(small)[1].flatten(1), head.other(small)[1].flatten(1)
    row = (one[:, 7] @ other / math.sqrt(3)).softmax(0)
    torch.testing.assert_close(alike[1, 7], row)
    torch.testing.assert_close(spread[1].flatten(1), logits[1].flatten(1) @ alike[1])
    assert torch.autograd.grad(spread.sum(), logits, allow_unused=True)[0] is None


def test_the_maps_of_a_class_are_where_its_feature_is():
    torch.manual_seed(0)
    cam = RefinedCAM([4, 6], 3).eval()
    features = [torch.randn(2, 4, 8, 8), torch.randn(2, 6, 4, 4, requires_grad=True)]
    scores, logits = cam(features)
    weight, bias = cam.classify.weight[:, :, 0, 0], cam.classify.bias
    torch.testing.assert_close(scores, features[1].mean((2, 3)) @ weight.T + bias)
    assert logits.shape == (2, 3, 4, 4) and logits.requires_grad
    assert torch.autograd.grad(logits.sum(), features[1], allow_unused=True, retain_graph=True)[0] is None
    assert torch.autograd.grad(scores.sum(), features[1])[0].any()


def test_heads_drop_by_keys_in_train_mode_alone():
    torch.manual_seed(0)
    head = ProjectionHead([4, 6], 16)
    features = [torch.randn(2, 4, 8, 8), torch.randn(2, 6, 4, 4)]
    assert head(features, KEYS).shape == (2, 16, 8, 8)
    assert torch.equal(head(features, KEYS), head(features, KEYS))
    assert not torch.equal(head(features, KEYS), head(features, KEYS + 5))
    head.eval()
    assert torch.equal(head(features, KEYS), head(features, KEYS + 5))


def test_the_threshold_follows_valid_pixels_of_all_processes():
    class U:
        valid = torch.tensor([[[True, True, True, False]]])

    class Two:
        def gather(self, values: torch.Tensor) -> torch.Tensor:
            return torch.cat([values, torch.tensor([[0.1, 0.8, 0.0]])])

    conf, labels = torch.tensor([[[0.5, 0.6, 0.7, 1.0]]]), torch.tensor([[[0, 0, 1, 1]]])
    for group, other in ((Alone(), 0.7), (Two(), 0.8)):
        found = followed(torch.tensor(0.4), 0.5, conf, labels, U, 3, group)
        assert found.item() == pytest.approx(0.5 * 0.4 + 0.5 * (0.6 + other) / 2)


@pytest.mark.parametrize(("epoch", "follows"), [(3, 0), (4, 1)])
def test_ps_mts_teachers_take_turns(make_net, epoch, follows):
    net = make_net(norm=True)
    method = build("ps_mt", net)
    before = [copy.deepcopy(teacher.net.state_dict()) for teacher in method.teachers]
    with torch.no_grad():
        net.low.weight += 1.0
    method.after_update(net, Progress(5 * epoch, 40, epoch))
    moved = [
        not torch.equal(teacher.net.low.weight, old["low.weight"])
        for teacher, old in zip(method.teachers, before, strict=True)
    ]
    assert moved == [follows == 0, follows == 1]


def test_augsegs_teacher_is_the_student_in_the_first_epoch(make_net):
    net = make_net(norm=True)
    method = build("augseg", net)
    with torch.no_grad():
        net.low.weight += 1.0
    method.after_update(net, Progress(4, 40, 0))
    assert torch.equal(method.teacher.net.low.weight, net.low.weight)
    with torch.no_grad():
        net.low.weight += 1.0
    method.after_update(net, Progress(5, 40, 1))
    assert (net.low.weight - method.teacher.net.low.weight).mean().item() == pytest.approx(5 / 6, rel=1e-4)


def test_normal_numbers_have_the_normal_law_and_keys_of_their_own():
    values = keyed_normal(KEYS, 20_000)
    assert values.mean().abs() < 0.02 and (values.std() - 1).abs() < 0.02
    assert 0.66 < float((values.abs() < 1).double().mean()) < 0.70
    assert torch.equal(values[:1], keyed_normal(KEYS[:1], 20_000)) and values.isfinite().all()
    assert float(keyed_uniform(KEYS, 9).max()) < 1.0

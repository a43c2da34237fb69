"""The project's own recipe: it begins as the baseline, and what it then adds, by hand."""

import dataclasses

import pytest
import torch

from unimatch.errors import ConfigError
from unimatch.losses import cross_entropy, masked_consistency
from unimatch.methods import METHODS, Progress
from unimatch.methods.base import Alone
from unimatch.methods.class_counts import KEPT, ClassCounts
from unimatch.taxonomy import IGNORE_INDEX

CLASSES = 3


def build(net, **settings):
    entry = METHODS["ours"]
    method = entry.cls(entry.config(**settings), cross_entropy, masked_consistency, CLASSES)
    method.begin(net)
    return method


def test_until_its_start_it_is_the_baseline(make_net, make_batch):
    net = make_net(norm=True)
    method = build(net, burn_in=10)
    batch = make_batch(needs=method.views)
    entry = METHODS["supervised"]
    baseline = entry.cls(entry.config(), cross_entropy, masked_consistency)
    for step, alike in [(0, True), (9, True), (10, False)]:
        loss, logs = method.step(make_net(norm=True), batch, Progress(step, 20, 0))
        expected, _ = baseline.step(make_net(norm=True), batch, Progress(step, 20, 0))
        assert torch.equal(loss, expected) == alike and ("loss_s" in logs) != alike
        assert torch.equal(logs["loss_x"], expected.detach()), "the labelled loss keeps its whole weight"
    assert list(method.eval_nets(net)) == ["model", "ema"]


def test_it_waits_until_the_labels_were_passed_over(make_net):
    """A pass in ten steps: 60 of them take 600."""
    method = build(make_net(), start_passes=60.0, start=0.3, ramp=0.1)
    found = {step: method._weight(Progress(step, 1000, 0, 0.1)) for step in (599, 600, 649, 699, 999)}
    assert found == pytest.approx({599: 0.0, 600: 0.01, 649: 0.5, 699: 1.0, 999: 1.0})
    assert method._weight(Progress(599, 600, 0, 0.1)) == 0.0, "a run that is too short is the baseline"
    assert method._weight(Progress(299, 1000, 0, 1.0)) == 0.0, "0.3 of the run is later"
    with pytest.raises(ConfigError, match="start_passes must be at least 0, found -1"):
        METHODS["ours"].config(start_passes=-1.0)


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ({"burn_in": 2, "ramp": 0.2}, {0: 0.0, 1: 0.0, 2: 0.5, 3: 1.0, 9: 1.0}),
        ({"burn_in": 4, "ramp": 0.2, "weight": 2.0}, {3: 0.0, 4: 1.0, 5: 2.0}),
        ({"ramp": 0.0}, {0: 1.0}),
        ({"burn_in": 10}, {9: 0.0}),
    ],
)
def test_the_weight_rises_after_the_start(make_net, settings, weights):
    method = build(make_net(), **settings)
    found = {step: method._weight(Progress(step, 10, 0)) for step in weights}
    assert found == pytest.approx(weights)


def test_labelled_pixels_are_pasted_with_their_labels(make_net, make_batch):
    method = build(make_net(), paste=1.0)
    batch = make_batch(needs=method.views)
    x, u = batch.labeled, batch.unlabeled
    conf, labels = torch.full(x.label.shape, 0.1), torch.zeros_like(x.label)
    image, pseudo = method._strong(x, u, conf, labels, None)
    target, sure, valid = pseudo.labels, pseudo.conf, pseudo.valid
    pasted = torch.isinf(sure)
    assert 0 < int(pasted.sum()) < pasted.numel() and not pasted[x.label == IGNORE_INDEX].any()
    assert torch.equal(target[pasted], x.label[pasted]) and not target[~pasted].any()
    assert (sure[~pasted] == conf[~pasted]).all()
    assert pseudo.weight is not None and (pseudo.weight[pasted] == 1.0).all()
    wide = pasted[:, None].expand_as(image)
    assert torch.equal(image[wide], x.image[wide])
    assert torch.equal(valid, u.mixed_valid[0] | pasted)
    for one, label in zip(pasted, x.label, strict=True):  # whole classes, half of them
        classes = set(label[one].tolist())
        assert all(bool(one[label == each].all()) for each in classes)
    none = build(make_net(), paste=0.0)._strong(x, u, conf, labels, None)[1]
    assert not torch.isinf(none.conf).any()
    more = dataclasses.replace(x, image=x.image.repeat(2, 1, 1, 1), label=x.label.repeat(2, 1, 1))
    assert torch.equal(method._strong(more, u, conf, labels, None)[1].labels[0], target[0])


def test_a_class_of_which_the_teacher_is_less_sure_has_a_lower_threshold(make_net):
    method = build(make_net(), threshold=0.9)
    method.counts.sums = torch.tensor([[0.0] * 3, [0.0] * 3, [1e6, 1e6, 0.0], [0.96e6, 0.48e6, 0.0]])
    conf, labels = torch.tensor([[[0.9, 0.46, 0.44, 0.91]]]), torch.tensor([[[0, 1, 1, 2]]])
    eased, same = method._eased(conf, labels)
    assert (eased >= 0.9).tolist() == [[[True, True, False, True]]] and same is labels
    plain = build(make_net(), class_thresholds=False)
    plain.counts.sums = method.counts.sums
    assert plain._eased(conf, labels)[0] is conf


def test_a_pseudo_label_counts_as_much_as_its_class_is_right_on_labelled_images(make_net, make_batch):
    """With a precision of 1/4 for every class the unsupervised loss is a quarter of the one without trust."""
    batch = None
    found = []
    for trust in (True, False):
        net = make_net(norm=True)
        method = build(net, ramp=0.0, threshold=0.0, paste=0.0, class_thresholds=False, trust=trust)
        batch = batch or make_batch(needs=method.views)
        method.counts.sums[0], method.counts.sums[1] = 4e6, 1e6
        found.append(float(method.step(net, batch, Progress(0, 10, 0))[1]["loss_s"]))
    assert found[0] == pytest.approx(found[1] / 4, rel=1e-4) and found[1] > 0


def test_counts_of_classes():
    counts = ClassCounts(CLASSES, Alone())
    assert counts.precision().tolist() == [1.0] * 3 and counts.confidence().tolist() == [1.0] * 3
    said, truth = torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 1, 1, 255]]])
    labels, conf = torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0.5, 0.7, 0.9, 0.1]]])
    valid = torch.tensor([[[True, True, True, False]]])
    for _ in range(2):
        counts.labeled_and_not(said, truth, truth != 255, labels, conf, valid)
    assert not counts.sums.any(), "nothing changes within a step"
    counts.step_done()
    expected = [[4.0, 2.0, 0.0], [2.0, 2.0, 0.0], [4.0, 2.0, 0.0], [2.4, 1.8, 0.0]]
    torch.testing.assert_close(counts.sums, torch.tensor(expected))
    assert counts.precision().tolist() == pytest.approx([3 / 5, 1.0, 1.0])
    assert counts.confidence().tolist() == pytest.approx([(3.4 / 5) / (2.8 / 3), 1.0, 1.0])
    counts.step_done()
    torch.testing.assert_close(counts.sums, torch.tensor(expected))
    counts.labeled_and_not(said, truth, truth != 255, labels, conf, valid)
    counts.step_done()
    assert float(counts.sums[0, 0]) == pytest.approx(KEPT * 4.0 + 2.0)


@pytest.mark.parametrize("name", ["threshold", "start", "ramp", "paste"])
def test_impossible_settings(name):
    with pytest.raises(ConfigError, match=rf"{name} must lie in \[0, 1\], found 1.5"):
        METHODS["ours"].config(**{name: 1.5})


class Two(Alone):
    """Of two processes, the other of which saw the same."""

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        return torch.cat([values, values])


def test_counts_are_those_of_all_processes():
    ids, conf = torch.zeros(1, 1, 3, dtype=torch.int64), torch.full((1, 1, 3), 0.5)
    counts = ClassCounts(CLASSES, Two())
    counts.labeled_and_not(ids, ids, ids == 0, ids, conf, ids == 0)
    counts.step_done()
    assert counts.sums[:, 0].tolist() == [6.0, 6.0, 6.0, 3.0]

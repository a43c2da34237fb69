"""Loss terms of the methods that the field compares with, against their formulas in numpy, pixel by pixel."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from tests.unit.methods.test_siblings import CLASSES, LATE, build, sharp
from unimatch import keyed
from unimatch.errors import ConfigError
from unimatch.methods import METHODS
from unimatch.methods.components import largest_components
from unimatch.methods.ops import keyed_uniform
from unimatch.taxonomy import IGNORE_INDEX

IGNORE = IGNORE_INDEX


def softmax(logits) -> np.ndarray:
    values = np.asarray(logits, float)
    values = np.exp(values - values.max(1, keepdims=True))
    return values / values.sum(1, keepdims=True)


def cross_entropies(logits, labels) -> np.ndarray:
    """[B, H, W]; 0 where the label is to be ignored."""
    p, labels = softmax(logits), np.asarray(labels)
    found = np.zeros(labels.shape)
    for place in np.ndindex(labels.shape):
        if labels[place] != IGNORE:
            found[place] = -math.log(p[place[0], labels[place], place[1], place[2]])
    return found


def pasted(own, other, box) -> np.ndarray:
    own, other, box = np.asarray(own), np.asarray(other), np.asarray(box)
    box = box.reshape(len(box), *[1] * (own.ndim - 3), *box.shape[-2:])
    return np.where(box, other, own)


def start(case: str, make_net, make_batch, progress=LATE, **settings):
    """(loss, logs, net, method, batch) of one step, with what every network said in it."""
    net = sharp(make_net(norm=True))
    method = build(case, net, **settings)
    batch = make_batch(needs=method.views)
    for module in (net, *method.eval_nets(net).values(), *method.parts.values()):
        if hasattr(module, "outputs"):
            module.outputs.clear()
            module.images.clear()
    loss, logs = method.step(net, batch, progress)
    values = {name: float(value) for name, value in logs.items() if value.ndim == 0}
    return values, net, method, batch


def supervised(logits, label) -> float:
    label = np.asarray(label)
    return cross_entropies(logits, label).sum() / (label != IGNORE).sum()


def test_cutmix_mt(make_net, make_batch):
    logs, net, method, batch = start("cutmix_mt", make_net, make_batch, weight=2.0)
    u = batch.unlabeled
    weak, other = method.teacher.net.outputs
    target = pasted(softmax(weak), softmax(other), u.boxes[0])
    assert np.array_equal(net.images[1], pasted(u.strong[0], u.partner.strong[0], u.boxes[0]))
    valid = u.mixed_valid[0].numpy()
    share = ((target.max(1) >= 0.4) & valid).sum() / valid.sum()
    error = ((softmax(net.outputs[1]) - target) ** 2).sum(1)
    loss_s = share * error[valid].mean()
    assert 0 < share < 1
    assert logs["loss_s"] == pytest.approx(loss_s, rel=1e-5)
    assert logs["loss_x"] == pytest.approx(supervised(net.outputs[0], batch.labeled.label), rel=1e-5)
    assert logs["loss"] == pytest.approx(logs["loss_x"] + 2.0 * loss_s, rel=1e-5)


def test_cps_with_cutmix(make_net, make_batch):
    logs, net, method, batch = start("cps", make_net, make_batch, weight=3.0)
    u, second = batch.unlabeled, method.parts["second"]
    box = u.areas["mix"]
    valid = pasted(u.valid, u.partner.valid, box)
    labels = [pasted(each.outputs[1].argmax(1), each.outputs[2].argmax(1), box) for each in (net, second)]
    assert np.array_equal(net.images[3], pasted(u.weak, u.partner.weak, box))
    terms = [
        (cross_entropies(each.outputs[3], theirs) * valid).sum() / valid.size
        for each, theirs in zip((net, second), labels[::-1], strict=True)
    ]
    assert [logs["loss_cps"], logs["loss_cps2"]] == pytest.approx(terms, rel=1e-5)
    labelled = [supervised(each.outputs[0], batch.labeled.label) for each in (net, second)]
    assert [logs["loss_x"], logs["loss_x2"]] == pytest.approx(labelled, rel=1e-5)
    assert logs["loss"] == pytest.approx(sum(labelled) + 3.0 * sum(terms), rel=1e-5)


def test_cps_without_cutmix_learns_from_labelled_images_too(make_net, make_batch):
    logs, net, method, batch = start("cps, no CutMix", make_net, make_batch, weight=1.5)
    valid = np.concatenate([np.ones(batch.labeled.label.shape, bool), batch.unlabeled.valid.numpy()])
    ours, theirs = (np.concatenate(each.outputs) for each in (net, method.parts["second"]))
    first = (cross_entropies(ours, theirs.argmax(1)) * valid).sum() / valid.size
    second = (cross_entropies(theirs, ours.argmax(1)) * valid).sum() / valid.size
    assert [logs["loss_cps"], logs["loss_cps2"]] == pytest.approx([first, second], rel=1e-5)
    assert logs["loss"] == pytest.approx(logs["loss_x"] + logs["loss_x2"] + 1.5 * (first + second), rel=1e-5)


def test_cps_rises_in_the_medical_frame(make_net, make_batch):
    at_once = start("cps", make_net, make_batch, weight=2.0)[0]
    rising = start("cps", make_net, make_batch, weight=2.0, ramp=1.0)[0]
    assert rising["loss_cps"] == at_once["loss_cps"]
    factor = math.exp(-5.0 * (1.0 - LATE.step / LATE.total_steps) ** 2)
    assert factor < 0.5
    mutual = at_once["loss_cps"] + at_once["loss_cps2"]
    assert rising["loss"] == pytest.approx(at_once["loss"] - 2.0 * (1.0 - factor) * mutual, rel=1e-5)
    early = start("cps", make_net, make_batch, weight=2.0, ramp=0.5)[0]
    assert early["loss"] == at_once["loss"], "it has risen by half of the run"
    with pytest.raises(ConfigError, match=r"ramp must lie in \[0, 1\], found 2"):
        METHODS["cps"].config(ramp=2.0)


def test_the_second_network_differs_in_its_head_alone(make_net):
    net = make_net(norm=True)
    second = build("cps", net).parts["second"].state_dict()
    same = {name for name, value in net.state_dict().items() if torch.equal(value, second[name])}
    assert {name for name in net.state_dict() if name not in same} == {
        "head.classifier.weight",
        "head.classifier.bias",
    }


def test_augseg(make_net, make_batch):
    logs, net, method, batch = start("augseg", make_net, make_batch, weight=2.0)
    x, u = batch.labeled, batch.unlabeled
    p = softmax(method.teacher.net.outputs[0])
    conf, labels, valid = p.max(1), p.argmax(1), u.valid.numpy()
    entropy = -(p * np.log(p)).sum(1)
    certain = [((1 - entropy / math.log(CLASSES)) * conf)[i][valid[i]].mean() for i in range(4)]
    draws = [keyed.uniform(int(key) & keyed.MASK, 1)[0] for key in u.noise_key]
    order = np.argsort(u.noise_key.numpy())
    lent = []
    for i in range(4):
        donor = order[i] % 4
        box = u.areas["labeled"][i].numpy() & (draws[i] >= certain[i])
        label = x.label[donor].numpy()
        lent.append(
            (
                np.where(box, label, labels[i]),
                np.where(box, 1.0, conf[i]),
                np.where(box, label != IGNORE, valid[i]),
                np.where(box, x.image[donor].numpy(), u.strong[0][i].numpy()),
            )
        )
    assert any(draw >= c for draw, c in zip(draws, certain, strict=True))
    total = 0.0
    for i in range(4):
        box, other = u.boxes[0][i].numpy(), lent[order[i]]
        label, c, v = (
            np.where(box, theirs, own)
            for theirs, own in zip(other[:3], (labels[i], conf[i], valid[i]), strict=True)
        )
        image = np.where(box, other[3], u.strong[0][i].numpy())
        assert np.array_equal(net.images[0][4 + i], image)
        kept = v & (c >= 0.4)
        total += (cross_entropies(net.outputs[0][4 + i][None], label[None])[0] * kept).sum()
    assert logs["loss_s"] == pytest.approx(total / valid.size, rel=1e-5)
    assert logs["loss"] == pytest.approx(logs["loss_x"] + 2.0 * logs["loss_s"], rel=1e-5)


def test_imas(make_net, make_batch):
    draws = {step: keyed.Draws(keyed.key(step)).uniform() for step in range(10, 40)}
    at = dataclasses.replace(LATE, step=min(draws, key=draws.get))
    settings = {"threshold": 0.4, "left_out": 0}
    logs, net, method, batch = start("imas", make_net, make_batch, at, **settings)
    u = batch.unlabeled
    valid = u.valid.numpy()
    student, teacher = softmax(net.outputs[0]), softmax(method.teacher.net.outputs[0])
    easy = []
    for i in range(4):
        shares, agreements = [], []
        for own, other in ((teacher[i], student[i]), (student[i], teacher[i])):
            a, b = own.argmax(0)[valid[i]], other.argmax(0)[valid[i]]
            shares.append((own.max(0)[valid[i]] >= 0.4).mean())
            counts = [(a == c).sum() for c in range(1, CLASSES)]
            both = [(a == c) & (b == c) for c in range(1, CLASSES)]
            either = [(a == c) | (b == c) for c in range(1, CLASSES)]
            ious = [x.sum() / max(y.sum(), 1) for x, y in zip(both, either, strict=True)]
            agreements.append(np.dot(counts, ious) / max(sum(counts), 1))
        easy.append(np.dot(shares, agreements) / 2)
    assert logs["easy"] == pytest.approx(np.mean(easy), rel=1e-5) and np.std(easy) > 0
    conf, labels = teacher.max(1), teacher.argmax(1)
    cut, intensity = net.outputs[1][8:12], net.outputs[1][12:]
    blend = [h * s + (1 - h) * w for h, s, w in zip(easy, u.strong[0].numpy(), u.weak.numpy(), strict=True)]
    assert net.images[1][12:].numpy() == pytest.approx(np.stack(blend), abs=1e-5)

    def weighed(logits, labels, conf, valid) -> float:
        kept = valid & (conf >= 0.4)
        rows = (cross_entropies(logits, labels) * kept).mean((1, 2))
        return float(np.mean(np.array(easy) * rows))

    assert logs["loss_int"] == pytest.approx(weighed(intensity, labels, conf, valid), rel=1e-5)
    assert np.mean(easy) > draws[at.step], "the images are mixed in this step"
    rank = np.argsort(easy)
    partner = np.empty(4, int)
    partner[rank] = rank[::-1]
    box = u.areas["mix"].numpy()
    loss_cm = weighed(cut, *(pasted(each, each[partner], box) for each in (labels, conf, valid)))
    assert logs["loss_cm"] == pytest.approx(loss_cm, rel=1e-5)
    assert np.array_equal(net.images[1][8:12], pasted(u.weak, u.weak[partner], box))
    unsupervised = (logs["loss_int"] + logs["loss_cm"]) / 2
    assert logs["loss"] == pytest.approx(logs["loss_x"] + 3.0 * unsupervised, rel=1e-5)


def test_corrmatch(make_net, make_batch):
    logs, net, method, batch = start("corrmatch", make_net, make_batch, segments=16, feature_dropout=0.25)
    u, net_w = batch.unlabeled, net.outputs[1][4:8]
    other, box, valid = net.outputs[0], u.boxes[0], u.valid.numpy()
    p = softmax(net_w)
    conf, labels = p.max(1), p.argmax(1)
    largest = [conf[valid & (labels == c)].max(initial=0) for c in range(CLASSES)]
    mean = np.mean([value for value in largest if value])
    tau = 0.999 * 0.4 + 0.001 * mean
    assert logs["threshold"] == pytest.approx(tau, rel=1e-6)
    assert float(method.state_dict()["threshold"]) == pytest.approx(tau, rel=1e-6)
    target = pasted(p, softmax(other), box)
    sure, mixed_valid = target.max(1) >= tau, u.mixed_valid[0].numpy()
    strong = softmax(net.outputs[2])
    kl = (target * (np.log(target) - np.log(strong))).sum(1)
    assert logs["loss_kl"] == pytest.approx((kl * sure * mixed_valid).sum() / mixed_valid.sum(), rel=1e-4)
    rest = logs["loss_s"] + logs["loss_kl"] + logs["loss_fp"] + logs["loss_corr"]
    whole = 0.25 * (logs["loss_x"] + logs["loss_x_corr"]) + 0.125 * rest
    assert logs["loss"] == pytest.approx(whole, rel=1e-5)


def test_prevmatch(make_net, make_batch):
    net = make_net(norm=True)
    method = build("prevmatch", net)
    batch = make_batch(needs=method.views)
    for seed in (5, 6):
        method._keep(make_net(norm=True, seed=seed).state_dict())
    at = type(LATE)(10, 40, 2)  # a quarter of the run
    _, logs = method.step(net, batch, at)
    logs = {name: float(value) for name, value in logs.items() if value.ndim == 0}
    u = batch.unlabeled
    chosen = method._chosen(at)
    assert 1 <= len(chosen) <= 2 and sum(weight for _, weight in chosen) == pytest.approx(1.0)
    with torch.no_grad():
        weak, other = (
            softmax(sum(weight * one.eval()(image)["logits"] for one, weight in chosen).numpy())
            for image in (u.weak, u.partner.weak)
        )

    def loss(logits, labels, conf, valid) -> float:
        kept = valid & (conf >= 0.4)
        return (cross_entropies(logits, labels) * kept).sum() / valid.sum()

    fp = loss(net.outputs[1][12:], weak.argmax(1), weak.max(1), u.valid.numpy())
    strong = [
        loss(
            net.outputs[2][4 * view : 4 * view + 4],
            pasted(weak.argmax(1), other.argmax(1), u.boxes[view]),
            pasted(weak.max(1), other.max(1), u.boxes[view]),
            u.mixed_valid[view].numpy(),
        )
        for view in range(2)
    ]
    assert logs["loss_prev"] == pytest.approx(0.25 * sum(strong) + 0.5 * fp, rel=1e-5)
    uni = 0.25 * (logs["loss_s1"] + logs["loss_s2"]) + 0.5 * logs["loss_fp"]
    whole = (logs["loss_x"] + uni + 0.5 * logs["loss_prev"]) / 2.5
    assert logs["loss"] == pytest.approx(whole, rel=1e-5)


def test_prevmatch_keeps_the_newest_copies_and_draws_from_all(make_net):
    net = make_net()
    method = build("prevmatch", net, copies=3, used=2)
    for step in range(30):
        with torch.no_grad():
            net.low.bias.fill_(step)
        method.after_update(net, type(LATE)(step, 40, step // 5))
    assert [float(one.low.bias[0]) for one in method.copies] == [15, 20, 25]
    chosen = [method._chosen(type(LATE)(step, 40, 5)) for step in range(200)]
    assert {len(each) for each in chosen} == {1, 2}
    assert {id(one) for each in chosen for one, _ in each} == set(map(id, method.copies))


def test_u2pl(make_net, make_batch):
    logs, net, method, batch = start("u2pl", make_net, make_batch, mix="cutout", contrast_weight=0.5)
    u = batch.unlabeled
    mixes = keyed.Draws(keyed.key(LATE.step)).bool(0.5)
    valid = u.valid.numpy() & ~(u.areas["mix"].numpy() & mixes)
    weak, both = method.teacher.net.outputs
    labels = softmax(weak).argmax(1)
    p = softmax(both[4:])
    entropy = -(p * np.log(p)).sum(1)
    percent = 20 * (1 - LATE.step / LATE.total_steps)
    sure = valid & (entropy < np.quantile(entropy[valid], 1 - percent / 100))
    scale = valid.sum() / sure.sum()
    assert scale > 1
    error = cross_entropies(net.outputs[0][4:], labels)
    assert logs["loss_s"] == pytest.approx(scale * error[sure].mean(), rel=1e-5)
    assert logs["sure"] == pytest.approx(1 / scale, rel=1e-5)
    whole = logs["loss_x"] + logs["loss_s"] + 0.5 * logs["loss_c"]
    assert logs["loss"] == pytest.approx(whole, rel=1e-5) and logs["loss_c"] > 0


def test_ps_mt(make_net, make_batch):
    logs, net, method, batch = start("ps_mt", make_net, make_batch, weight=2.0, ramp=6)
    u = batch.unlabeled
    own = sum(teacher.net.outputs[0] for teacher in method.teachers) / 2
    swapped = own[[1, 0, 3, 2]]
    p = softmax(pasted(own, swapped, u.boxes[0]))
    conf, labels = p.max(1), p.argmax(1)
    kept = u.mixed_valid[0].numpy() & (conf >= 0.4)
    loss_s = (conf * cross_entropies(net.outputs[1], labels))[kept].sum() / kept.sum()
    assert logs["loss_s"] == pytest.approx(loss_s, rel=1e-5)
    ramp = 0.5 * (1 - math.cos(math.pi * 3 / 6))  # epoch 4, a warm-up of 1
    assert logs["loss"] == pytest.approx(logs["loss_x"] + 2.0 * ramp * loss_s, rel=1e-5)


def test_pseudoseg(make_net, make_batch):
    logs, net, method, batch = start("pseudoseg", make_net, make_batch, weight=2.0)
    x, u, cam = batch.labeled, batch.unlabeled, method.parts["cam"]
    valid = u.valid.numpy() & ~u.areas["cutout"].numpy()
    other = np.random.default_rng(0).normal(size=net.outputs[1].shape)
    fused = method._fused(net.outputs[1], torch.from_numpy(other).float()).numpy()
    logits = net.outputs[1].double().numpy()
    scale = math.sqrt((logits**2).mean() / 2 + (other**2).mean() / 2)
    mean = (softmax(logits / scale) + softmax(other / scale)) / 2
    sharp = mean**2 / (mean**2).sum(1, keepdims=True)
    assert fused == pytest.approx(sharp, rel=1e-4)
    shown = [[int((label == c).any()) for c in range(1, CLASSES)] for label in x.label.numpy()]
    assert logs["loss_class"] > 0 and np.array(shown).shape == (4, CLASSES - 1)
    parts = logs["loss_x"] + logs["loss_cam"] + logs["loss_class"]
    assert logs["loss"] == pytest.approx(parts + 2.0 * logs["loss_s"], rel=1e-5)
    assert valid.sum() < u.valid.numpy().sum() and cam.training
    hole = np.broadcast_to(u.areas["cutout"].numpy()[:, None], u.weak.shape)
    assert np.array_equal(net.images[2], np.where(hole, 0, u.strong[0]))


def test_ua_mt(make_net, make_batch):
    logs, net, method, batch = start("ua_mt", make_net, make_batch, weight=5.0)
    first, *others = (softmax(each) for each in method.teacher.net.outputs)
    mean = np.mean(others, axis=0)
    entropy = -(mean * np.log(mean)).sum(1)
    ramp = math.exp(-5 * (1 - LATE.step / LATE.total_steps) ** 2)
    sure = batch.unlabeled.valid.numpy() & (entropy < (0.75 + 0.25 * ramp) * math.log(CLASSES))
    assert 0 < sure.sum() < batch.unlabeled.valid.sum()
    loss_u = ((softmax(net.outputs[0][4:]) - first) ** 2).sum(1)[sure].mean() / 2
    assert logs["loss_u"] == pytest.approx(loss_u, rel=1e-5)
    assert logs["loss"] == pytest.approx(logs["loss_x"] + 5.0 * ramp * loss_u, rel=1e-5)
    assert not np.allclose(first, others[0]) and not np.allclose(others[0], others[1])


def test_bcp(make_net, make_batch):
    logs, net, method, batch = start("bcp", make_net, make_batch, weight=0.25)
    x, u, box = batch.labeled, batch.unlabeled, batch.unlabeled.areas["paste"].numpy()
    pseudo = largest_components(method.teacher.net.outputs[0].argmax(1), CLASSES).numpy()
    pseudo = np.where(u.valid.numpy(), pseudo, IGNORE)
    label = x.label.numpy()

    def within(logits, labels, mask) -> float:
        return supervised(logits, np.where(mask, labels, IGNORE))

    inside, outside = net.outputs
    assert np.array_equal(net.images[0], pasted(x.image, u.weak, box))
    assert np.array_equal(net.images[1], pasted(u.weak, x.image, box))
    loss_x = within(inside, label, ~box) + within(outside, label, box)
    loss_u = within(inside, pseudo, box) + within(outside, pseudo, ~box)
    assert logs["loss_x"] == pytest.approx(loss_x, rel=1e-5)
    assert logs["loss_u"] == pytest.approx(loss_u, rel=1e-5)
    assert logs["loss"] == pytest.approx(loss_x + 0.25 * loss_u, rel=1e-5)


def test_pc2seg_by_all_pairs(make_net, make_batch):
    """With as many anchors and negatives as there are pixels nothing is left to chance."""
    every = {"contrast": 1.0, "anchors": 10**6, "negatives": 10**6}
    logs, net, method, batch = start("pc2seg", make_net, make_batch, **every)
    u = batch.unlabeled
    weak, strong = softmax(net.outputs[1][:4]), softmax(net.outputs[1][4:])
    valid = u.valid.numpy()
    assert logs["loss_s"] == pytest.approx(((weak - strong) ** 2).sum(1)[valid].mean(), rel=1e-4)
    torch.manual_seed(2)
    ours, theirs = torch.randn(2, 4, 5, 8, 8).unbind()
    found = float(method._contrast(theirs, ours, net.outputs[1][:4].argmax(1), u))
    unit = (each / each.norm(dim=1, keepdim=True) for each in (ours, theirs))
    a, b = (each.movedim(1, -1).reshape(-1, 5).numpy() for each in unit)
    labels, flat = weak.argmax(1).ravel(), valid.ravel()
    image = np.repeat(np.arange(4), 64)
    terms = []
    for i in np.flatnonzero(flat):
        apart = flat & (image != image[i]) & (labels != labels[i])
        if apart.any():
            near, far = math.exp(a[i] @ b[i] / 0.1), np.exp(b[apart] @ a[i] / 0.1).sum()
            terms.append(-math.log(near / (near + far)))
    assert found == pytest.approx(np.mean(terms), rel=1e-4)
    assert logs["loss"] == pytest.approx(logs["loss_x"] + logs["loss_s"] + logs["loss_c"], rel=1e-5)


def test_st(make_net, make_batch):
    logs, net, method, batch = start("st", make_net, make_batch)
    x, hole = batch.labeled, np.asarray(batch.labeled.areas["cutout"])
    chosen = np.asarray(x.pseudo)
    assert chosen.tolist() == [False, True, False, False]
    seen, label = net.images[0].numpy(), x.label.numpy().copy()
    assert np.array_equal(seen[~chosen], x.image.numpy()[~chosen])
    strong, inside = x.strong.numpy()[1], np.broadcast_to(hole[1], (3, 8, 8))
    assert np.array_equal(seen[1][~inside], strong[~inside])
    noise = keyed.uniform(int(x.noise_key[1]) & keyed.MASK, strong.size).reshape(strong.shape)
    noise = strong.min() + noise * (strong.max() - strong.min())
    np.testing.assert_allclose(seen[1][inside], noise[inside], rtol=1e-5, atol=1e-6)
    label[1][hole[1]] = IGNORE
    assert logs["loss"] == logs["loss_x"] == pytest.approx(supervised(net.outputs[0], label), rel=1e-5)
    batch.labeled.pseudo = None
    loss, _ = method.step(net, batch, LATE)
    assert np.array_equal(net.images[1], x.image)
    assert loss.item() == pytest.approx(supervised(net.outputs[1], x.label), rel=1e-5)


def test_keys_draw_the_same_numbers_on_the_device():
    key = torch.tensor([5, -7])
    assert [keyed.uniform(int(k) & keyed.MASK, 1)[0] for k in key] == keyed_uniform(key, 1)[:, 0].tolist()

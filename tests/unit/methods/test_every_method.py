"""The properties that every method must have; the values of the losses are checked in tests/parity."""

import dataclasses
import math

import pytest
import torch

from unimatch.data.sample import Batch
from unimatch.errors import ConfigError, UserError
from unimatch.losses import PseudoLabels, cross_entropy, masked_consistency
from unimatch.methods import METHODS, Progress, ViewNeeds
from unimatch.taxonomy import IGNORE_INDEX

START = Progress(step=0, total_steps=20, epoch=0)
SEMI = ["fixmatch", "unimatch"]
ALL = [*SEMI, "mean_teacher", "unimatch_v2"]
VIEWS = {"supervised": 0, "fixmatch": 1, "unimatch": 2}


def build(name: str, **settings):
    entry = METHODS[name]
    return entry.cls(entry.config(**settings), cross_entropy, masked_consistency)


class FixedNet(torch.nn.Module):
    """Answers each pass with the next of some prepared logits."""

    def __init__(self, *answers: torch.Tensor) -> None:
        super().__init__()
        self.answers = list(answers)

    def forward(self, image, perturb=None):
        return {"logits": self.answers.pop(0)}


def logit(probability: float) -> float:
    """The logit against one other class of logit 0 that gives this probability."""
    return math.log(probability / (1 - probability))


def two_classes(*probabilities: float) -> torch.Tensor:
    """[B, 2, 1, 2] logits: the probability of class 1 for the two pixels of each image."""
    ones = torch.tensor([logit(p) for p in probabilities]).view(-1, 1, 1, 2)
    return torch.cat([torch.zeros_like(ones), ones], dim=1)


def two_pixel_batch(make_batch, views: int) -> Batch:
    """One labelled and one unlabelled image of two pixels; the box of every view covers the second pixel."""
    batch = make_batch(size=1, views=views)
    box = torch.tensor([[[False, True]]])
    yes = torch.ones(1, 1, 2, dtype=torch.bool)
    image = torch.zeros(1, 3, 1, 2)
    labeled = dataclasses.replace(batch.labeled, image=image, label=torch.tensor([[[1, IGNORE_INDEX]]]))
    partner = dataclasses.replace(batch.unlabeled.partner, weak=image, strong=(image,) * views, valid=yes)
    unlabeled = dataclasses.replace(
        batch.unlabeled, weak=image, strong=(image,) * views, valid=yes, boxes=(box,) * views,
        partner=partner, mixed_valid=(yes,) * views,
    )  # fmt: skip
    return Batch(labeled, unlabeled)


def test_supervised_on_hand_made_logits(make_batch):
    loss, logs = build("supervised").step(
        FixedNet(two_classes(0.8, 0.1)), two_pixel_batch(make_batch, 0), START
    )
    assert float(loss) == pytest.approx(-math.log(0.8))
    assert float(logs["loss_x"]) == float(logs["loss"]) == float(loss)


def test_fixmatch_on_hand_made_logits(make_batch):
    net = FixedNet(
        two_classes(0.01, 0.97),  # partner: pixel 1 is class 1 with 0.97
        torch.cat([two_classes(0.8, 0.1), two_classes(0.02, 0.4)]),  # x, weak: pixel 0 is class 0 with 0.98
        two_classes(0.3, 0.6),  # strong
    )
    loss, logs = build("fixmatch").step(net, two_pixel_batch(make_batch, 1), START)
    loss_s = (-math.log(0.7) - math.log(0.6)) / 2  # pixel 0 outside the box, pixel 1 the partner's
    assert float(logs["loss_x"]) == pytest.approx(-math.log(0.8))
    assert float(logs["loss_s"]) == pytest.approx(loss_s)
    assert float(loss) == pytest.approx((-math.log(0.8) + loss_s) / 2)
    assert float(logs["kept"]) == 0.5 and logs["pseudo_hist"].tolist() == [1.0, 0.0]


def test_unimatch_on_hand_made_logits(make_batch):
    net = FixedNet(
        two_classes(0.01, 0.90),  # partner: pixel 1 below the threshold
        torch.cat([
            two_classes(0.8, 0.1), two_classes(0.02, 0.96),  # x, weak
            two_classes(0.5, 0.5), two_classes(0.4, 0.6),  # their perturbed copies
        ]),
        torch.cat([two_classes(0.3, 0.6), two_classes(0.2, 0.6)]),  # strong
    )  # fmt: skip
    loss, logs = build("unimatch").step(net, two_pixel_batch(make_batch, 2), START)
    terms = {
        "loss_x": -math.log(0.8),
        "loss_s1": -math.log(0.7) / 2,  # pixel 1 is inside the box, and the partner is not sure of it
        "loss_s2": -math.log(0.8) / 2,
        "loss_fp": (-math.log(0.6) - math.log(0.6)) / 2,  # no box: both pixels are sure
    }
    terms["loss"] = 0.5 * terms["loss_x"] + 0.5 * (
        0.25 * terms["loss_s1"] + 0.25 * terms["loss_s2"] + 0.5 * terms["loss_fp"]
    )
    assert float(loss) == float(logs["loss"])
    for name, value in terms.items():
        assert float(logs[name]) == pytest.approx(value), name
    assert float(logs["kept"]) == 1.0 and logs["pseudo_hist"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("name", SEMI)
def test_an_in_batch_partner_lends_its_own_train_mode_pseudo_label(name, make_net, make_batch):
    batch, net = make_batch(views=VIEWS[name], partner="batch"), make_net(norm=True)
    _, logs = build(name, mix_partner="batch", threshold=0.4).step(net, batch, START)
    assert [passed[0] for passed in net.passes] == [True, True], "no pass for the partner"

    net, u = make_net(norm=True).train(), batch.unlabeled
    conf, labels = net(torch.cat([batch.labeled.image, u.weak]))["logits"][4:].softmax(1).max(1)
    neighbour = [1, 0, 3, 2]
    mixed = [
        torch.where(u.boxes[v][:, None], u.strong[v][neighbour], u.strong[v]) for v in range(VIEWS[name])
    ]
    for v, logits in enumerate(net(torch.cat(mixed))["logits"].chunk(VIEWS[name])):
        mixed_conf = torch.where(u.boxes[v], conf[neighbour], conf)
        mixed_labels = torch.where(u.boxes[v], labels[neighbour], labels)
        pseudo = PseudoLabels(mixed_labels, mixed_conf, u.mixed_valid[v], 0.4)
        expected = masked_consistency(logits, pseudo).detach()
        assert float(expected) > 0
        torch.testing.assert_close(logs["loss_s" if name == "fixmatch" else f"loss_s{v + 1}"], expected)


@pytest.mark.parametrize("name", SEMI)
def test_the_partner_is_predicted_in_eval_mode_and_the_rest_in_train_mode(name, make_net, make_batch):
    net = make_net(norm=True)
    net.eval()
    build(name).step(net, make_batch(views=VIEWS[name]), START)
    views = VIEWS[name]
    assert net.passes == [(False, False, 4), (True, True, 8), (True, True, 4 * views)]
    assert net.training
    assert int(net.norm.num_batches_tracked) == 2, (
        "the partner's pass must leave the batch-norm statistics alone"
    )


def test_the_views_that_methods_ask_for():
    assert build("supervised").views == ViewNeeds(0, None, False)
    assert build("fixmatch", mix_partner="shuffled").views == ViewNeeds(1, "shuffled", True)
    assert build("unimatch").views == ViewNeeds(2, "same", True)


@pytest.mark.parametrize("name", ["supervised", *SEMI])
def test_the_gradient_reaches_every_parameter_and_no_log(name, make_net, make_batch):
    net = make_net(norm=True)
    loss, logs = build(name, **({} if name == "supervised" else {"threshold": 0.0})).step(
        net, make_batch(views=VIEWS[name]), START
    )
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.parameters())
    assert not any(value.requires_grad for value in logs.values())


@pytest.mark.parametrize("name", SEMI)
@pytest.mark.parametrize("partner", ["same", "batch"])
def test_no_gradient_passes_through_pseudo_labels(name, partner, make_net, make_batch):
    """The gradient equals the one with pseudo-labels that were worked out beforehand as constants."""
    method, batch = (
        build(name, mix_partner=partner, threshold=0.4),
        make_batch(views=VIEWS[name], partner=partner),
    )
    batch.unlabeled.weak.requires_grad_()
    batch.unlabeled.partner.weak.requires_grad_()
    loss, logs = method.step(make_net(), batch, START)
    assert 0 < float(logs["kept"]) < 1
    gradients = torch.autograd.grad(
        loss, [batch.unlabeled.weak, batch.unlabeled.partner.weak], allow_unused=True, materialize_grads=True
    )
    # FixMatch uses the weak view for pseudo-labels alone. UniMatch also decodes perturbed features of it.
    assert gradients[0].any() == (name == "unimatch")
    assert not gradients[1].any()


@pytest.mark.parametrize("name", SEMI)
def test_autocast_does_not_lose_the_gradient_behind_the_partner_pass(name, make_net, make_batch):
    net = make_net()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = build(name, threshold=0.0, unsupervised_weight=1.0).step(
            net, make_batch(views=VIEWS[name]), START
        )
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("name", ["supervised", *SEMI])
def test_state_survives_and_a_foreign_state_is_refused(name, make_net, make_batch, tmp_path):
    method, batch = build(name), make_batch(views=VIEWS[name])
    before, _ = method.step(make_net(norm=True), batch, START)
    method.after_update(make_net(), START)
    torch.save(method.state_dict(), tmp_path / "state.pt")
    again = build(name)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    after, _ = again.step(make_net(norm=True), batch, START)
    assert torch.equal(before, after)
    with pytest.raises(UserError, match="teacher"):
        again.load_state_dict({"teacher": {}})


@pytest.mark.parametrize("name", ["supervised", *SEMI])
@pytest.mark.parametrize("partner", ["same", "batch"])
def test_twenty_steps_reduce_the_loss(name, partner, make_net, make_batch):
    settings = {} if name == "supervised" else {"threshold": 0.4, "mix_partner": partner}
    method, net, batch = (
        build(name, **settings),
        make_net(norm=True),
        make_batch(views=VIEWS[name], partner=partner),
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9)
    history = []
    for step in range(20):
        loss, logs = method.step(net, batch, Progress(step, 20, 0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_update(net, Progress(step, 20, 0))
        history.append(logs)
    assert float(history[-1]["loss_x"]) < 0.8 * float(history[0]["loss_x"])
    assert float(history[-1]["loss"]) < 0.8 * float(history[0]["loss"])
    assert list(method.eval_nets(net).values()) == [net]


@pytest.mark.parametrize("name", [*SEMI, "mean_teacher"])
def test_the_burn_in_is_the_baseline(name, make_net, make_batch):
    """Its steps see labelled images alone; the one after them is the method's own."""
    batch = make_batch(views=VIEWS.get(name, 1))
    results = {}
    for settings in ({"burn_in": 3}, {}):
        method = build(name, **settings)
        method.begin(make_net(norm=True))
        for step in (2, 3):
            net = make_net(norm=True).eval()
            loss, logs = method.step(net, batch, Progress(step, 20, 0))
            assert net.training
            results[bool(settings), step] = loss.item(), set(logs)
    baseline = build("supervised").step(make_net(norm=True), batch, START)
    assert results[True, 2] == (baseline[0].item(), {"loss", "loss_x"})
    assert results[True, 3] == results[False, 3] == results[False, 2] and results[True, 3] != results[True, 2]


def part(batch: Batch, keep: slice, counts: list[int], parts: int) -> Batch:
    """Some images of a batch, with shares that make the mean over `parts` such batches the global one."""
    x, u = batch.labeled, batch.unlabeled

    def share(mask: torch.Tensor, whole: int) -> torch.Tensor:
        return mask[keep].sum() * parts / whole

    labeled = dataclasses.replace(
        x, image=x.image[keep], label=x.label[keep], noise_key=x.noise_key[keep],
        share=share(x.label != IGNORE_INDEX, counts[0]), strong=None if x.strong is None else x.strong[keep],
        pseudo=None if x.pseudo is None else x.pseudo[keep],
        areas={name: area[keep] for name, area in x.areas.items()},
    )  # fmt: skip

    def cut(values):
        return tuple(value[keep] for value in values)

    p = dataclasses.replace(
        u.partner, weak=u.partner.weak[keep], strong=cut(u.partner.strong), valid=u.partner.valid[keep]
    )
    unlabeled = dataclasses.replace(
        u, weak=u.weak[keep], strong=cut(u.strong), valid=u.valid[keep], boxes=cut(u.boxes), partner=p,
        mixed_valid=cut(u.mixed_valid), noise_key=u.noise_key[keep], share=share(u.valid, counts[1]),
        mixed_share=tuple(share(m, c) for m, c in zip(u.mixed_valid, counts[2:], strict=True)),
        areas={name: area[keep] for name, area in u.areas.items()},
    )  # fmt: skip
    return Batch(labeled, unlabeled)


@pytest.mark.parametrize("name", ["supervised", *SEMI])
@pytest.mark.parametrize("partner", ["same", "batch"])
def test_shares_make_the_mean_over_parts_the_value_of_the_whole(name, partner, make_net, make_batch):
    settings = {} if name == "supervised" else {"threshold": 0.4, "mix_partner": partner}
    method, net = build(name, **settings), make_net().double()
    batch = make_batch(size=4, views=VIEWS[name], partner=partner)
    batch.labeled.label[0, :5] = IGNORE_INDEX  # parts of very different counts
    for owner in (batch.labeled, batch.unlabeled, batch.unlabeled.partner):
        for field in ("image", "weak", "strong"):
            value = getattr(owner, field, None)
            if value is not None:
                setattr(
                    owner,
                    field,
                    tuple(v.double() for v in value) if isinstance(value, tuple) else value.double(),
                )
    u = batch.unlabeled
    counts = [int((batch.labeled.label != IGNORE_INDEX).sum())]
    counts += [int(mask.sum()) for mask in (u.valid, *u.mixed_valid)]
    whole, whole_logs = method.step(net, batch, START)
    halves = [method.step(net, part(batch, keep, counts, 2), START) for keep in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close((halves[0][0] + halves[1][0]) / 2, whole, rtol=1e-6, atol=0)
    for key in whole_logs:
        if key != "pseudo_hist":
            mean = (halves[0][1][key] + halves[1][1][key]) / 2
            torch.testing.assert_close(mean, whole_logs[key], rtol=1e-6, atol=1e-7)
    weights = list(net.parameters())
    gradients = [torch.autograd.grad(loss, weights) for loss in (whole, *(half[0] for half in halves))]
    for full, first, second in zip(*gradients, strict=True):
        torch.testing.assert_close((first + second) / 2, full, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["supervised", *SEMI])
def test_nothing_to_learn_from_gives_zero_and_finite_gradients(name, make_net, make_batch):
    batch, net = make_batch(views=VIEWS[name]), make_net(norm=True)
    batch.labeled.label.fill_(IGNORE_INDEX)
    for mask in (batch.unlabeled.valid, *batch.unlabeled.mixed_valid):
        mask.fill_(False)
    loss, logs = build(name).step(net, batch, START)
    loss.backward()
    assert float(logs["loss"]) == 0.0
    assert all(value.isfinite().all() for value in logs.values())
    assert all(not p.grad.any() for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", SEMI)
def test_the_unsupervised_weight_moves_between_the_two_losses(name, make_net, make_batch):
    losses = []
    for weight in (0.0, 0.25, 1.0):
        method = build(name, threshold=0.0, unsupervised_weight=weight)
        loss, logs = method.step(make_net(), make_batch(views=VIEWS[name]), START)
        losses.append(float(loss.detach()))
    assert losses[0] == float(logs["loss_x"])
    assert losses[1] == pytest.approx(0.75 * losses[0] + 0.25 * losses[2])
    assert losses[2] != pytest.approx(losses[0])


@pytest.mark.parametrize("p", [0.0, 0.25, 0.8])
def test_unimatch_drops_as_often_as_it_is_told(p, make_batch):
    """Of labelled and unlabelled features alike, each image by numbers of its own."""
    seen = []

    class Ones(torch.nn.Module):
        def forward(self, image, perturb=None):
            if perturb is not None:
                seen.append(perturb([torch.ones(len(image), 400, 1, 1)])[0].flatten(1))
            return {"logits": torch.zeros(len(image) * (2 if perturb else 1), 3, *image.shape[-2:])}

    build("unimatch", feature_dropout=p).step(Ones(), make_batch(views=2), START)
    clean, dropped = seen[0].chunk(2)
    assert torch.equal(clean, torch.ones(8, 400))
    rates = (dropped == 0).double().mean(1)
    assert ((rates - p).abs() < 5 * (p * (1 - p) / 400) ** 0.5 + 1e-9).all()
    torch.testing.assert_close(dropped[dropped != 0], torch.full_like(dropped[dropped != 0], 1 / (1 - p)))
    if p:
        assert len({tuple(row) for row in dropped.tolist()}) == 8


@pytest.mark.parametrize(
    ("name", "settings", "field"),
    [
        ("fixmatch", {"threshold": 1.5}, "threshold"),
        ("fixmatch", {"unsupervised_weight": -0.1}, "unsupervised_weight"),
        ("unimatch", {"burn_in": -1}, "burn_in must be at least 0"),
        ("unimatch", {"threshold": -1.0}, "threshold"),
        ("unimatch", {"feature_dropout": 1.0}, "feature_dropout"),
    ],
)
def test_settings_out_of_range_are_refused(name, settings, field):
    with pytest.raises(ConfigError, match=field):
        METHODS[name].config(**settings)


@pytest.mark.parametrize("partner", ["same", "batch"])
@pytest.mark.parametrize("name", ALL)
def test_no_view_is_encoded_twice(name: str, partner: str, make_net, make_batch):
    """Whoever sees it, student or teacher: what a second pass over an image would give is shared."""
    net = make_net()
    method = build(name, mix_partner=partner)
    seen: list[bytes] = []

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.extend(image.numpy().tobytes() for image in inputs[0].detach())

    net.register_forward_pre_hook(note)  # the teacher is a copy, which has it too
    method.begin(net)
    method.step(net, make_batch(views=method.views.num_strong, partner=partner), START)
    passes = 1 + 1 + method.views.num_strong + (partner == "same")  # x, weak, strong; the partner's weak view
    assert len(seen) == len(set(seen)) == 4 * passes

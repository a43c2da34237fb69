"""The EMA teacher, and the method that learns from it."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from tests.unit.methods.test_every_method import FixedNet, two_classes, two_pixel_batch
from unimatch.errors import ConfigError
from unimatch.losses import cross_entropy, masked_consistency
from unimatch.methods import METHODS, Progress
from unimatch.methods.teacher import Teacher, ema_decay

START = Progress(step=0, total_steps=20, epoch=0)


def build(net: nn.Module, **settings):
    entry = METHODS["mean_teacher"]
    method = entry.cls(entry.config(**settings), cross_entropy, masked_consistency)
    method.begin(net)
    return method


def test_the_decay_is_that_of_a_running_mean_until_its_limit():
    assert [ema_decay(step, 0.75) for step in range(6)] == pytest.approx(
        [0, 1 / 2, 2 / 3, 3 / 4, 3 / 4, 3 / 4]
    )
    assert ema_decay(10**6, 0.996) == 0.996


def test_the_teacher_is_the_moving_average_written_out(make_net):
    student = make_net(norm=True)
    teacher = Teacher(student)
    expected = {name: value.clone().double() for name, value in student.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    for step in range(5):
        for tensor in [*student.parameters(), *student.buffers()]:
            if tensor.is_floating_point():
                tensor.data += torch.rand(tensor.shape, generator=generator)
            else:
                tensor += 3
        decay = ema_decay(step, 0.7)
        teacher.update(student, decay)
        for name, value in student.state_dict().items():
            old = expected[name]
            mean = decay * old + (1 - decay) * value.double()
            expected[name] = mean if value.is_floating_point() else value.double()
    assert int(teacher.net.norm.num_batches_tracked) == 15
    for name, value in teacher.net.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-6, atol=1e-6)
    assert not any(p.requires_grad for p in teacher.net.parameters())


def test_pseudo_labels_are_the_teachers(make_batch):
    student = FixedNet(
        two_classes(0.8, 0.1),  # x
        two_classes(0.3, 0.6),  # strong
    )
    method = build(student)
    method.teacher.net.answers = [
        two_classes(0.01, 0.97),  # partner: pixel 1 is class 1 with 0.97
        two_classes(0.02, 0.4),  # weak: pixel 0 is class 0 with 0.98
    ]
    loss, logs = method.step(student, two_pixel_batch(make_batch, 1), START)
    loss_s = (-math.log(0.7) - math.log(0.6)) / 2  # pixel 0 outside the box, pixel 1 the partner's
    assert float(logs["loss_x"]) == pytest.approx(-math.log(0.8))
    assert float(logs["loss_s"]) == pytest.approx(loss_s)
    assert float(loss) == pytest.approx((-math.log(0.8) + loss_s) / 2)
    assert float(logs["kept"]) == 0.5 and logs["pseudo_hist"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("partner", ["same", "batch"])
def test_the_teacher_predicts_in_eval_mode_and_is_changed_by_updates_alone(partner, make_net, make_batch):
    net = make_net(norm=True)
    method, batch = build(net, mix_partner=partner, threshold=0.0), make_batch(views=1, partner=partner)
    method.teacher.net.train()
    before = copy.deepcopy(method.teacher.net.state_dict())
    loss, _ = method.step(net, batch, START)
    loss.backward()
    assert method.teacher.net.passes == [(False, False, 4)] * (2 if partner == "same" else 1)
    assert net.passes == [(True, True, 4), (True, True, 4)] and net.training
    assert all(torch.equal(value, before[name]) for name, value in method.teacher.net.state_dict().items())
    assert all(p.grad is None for p in method.teacher.net.parameters())
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())
    method.after_update(net, START)  # decay 0
    assert all(torch.equal(v, net.state_dict()[name]) for name, v in method.teacher.net.state_dict().items())


def test_twenty_steps_reduce_the_loss_and_the_teacher_gives_the_headline(make_net, make_batch):
    net, batch = make_net(norm=True), make_batch(views=1)
    method = build(net, threshold=0.4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9)
    history = []
    for step in range(20):
        loss, logs = method.step(net, batch, Progress(step, 20, 0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_update(net, Progress(step, 20, 0))
        history.append(float(logs["loss"]))
    assert history[-1] < 0.8 * history[0]
    assert list(method.eval_nets(net).items()) == [("ema", method.teacher.net), ("model", net)]
    assert method.state_dict() == {}


def test_a_decay_out_of_range_is_refused():
    with pytest.raises(ConfigError, match="ema_decay"):
        METHODS["mean_teacher"].config(ema_decay=1.0)

import pytest

from unimatch.engine.schedule import ScheduleConfig, lr_factor, total_steps
from unimatch.errors import ConfigError


def test_the_rate_follows_the_published_loop():
    """The reference computes (1 - i/T)^0.9 after step i, for step i + 1; step 0 has the full rate."""
    total, rate, expected = 10, 1.0, []
    for i in range(total):
        expected.append(rate)
        rate = (1 - i / total) ** 0.9
    config = ScheduleConfig(steps=total)
    assert [lr_factor(step, total, config) for step in range(total)] == pytest.approx(expected)
    assert lr_factor(0, total, config) == lr_factor(1, total, config) == 1.0


def test_warm_up_is_linear_and_then_joins_the_decay():
    config = ScheduleConfig(steps=100, warmup_steps=4)
    assert [lr_factor(step, 100, config) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert lr_factor(4, 100, config) == (1 - 3 / 100) ** 0.9


def test_length_in_steps_or_in_epochs():
    assert total_steps(ScheduleConfig(steps=7), 100) == 7
    assert total_steps(ScheduleConfig(epochs=3), 100) == 300
    with pytest.raises(ConfigError, match="warmup_steps"):
        total_steps(ScheduleConfig(steps=5, warmup_steps=5), 100)


@pytest.mark.parametrize("fields", [{}, {"steps": 1, "epochs": 1}, {"steps": 0}, {"epochs": -1}])
def test_a_length_must_be_said_once(fields):
    with pytest.raises(ValueError, match="steps|epochs"):
        ScheduleConfig(**fields)

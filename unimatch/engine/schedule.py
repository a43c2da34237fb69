"""Learning rate and run length as pure functions of the step."""

from __future__ import annotations

from dataclasses import dataclass

from unimatch.errors import ConfigError


@dataclass
class ScheduleConfig:
    """Length of the run, in optimiser steps or in passes over the unlabelled set; one of the two."""

    steps: int | None = None
    epochs: int | None = None
    # Count an epoch's steps as on so many devices of which each reads ceil(N / devices) samples, in whole
    # batches: the published step counts, for some lists one step an epoch above N / batch.
    epoch_devices: int = 1
    power: float = 0.9  # of the polynomial decay to zero
    warmup_steps: int = 0  # linear warm-up from 0 before the decay

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("set exactly one of steps and epochs")
        for name in ("steps", "epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, found {value}")
        if self.epoch_devices < 1:
            raise ValueError(f"epoch_devices must be at least 1, found {self.epoch_devices}")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must be at least 0, found {self.warmup_steps}")


def total_steps(config: ScheduleConfig, steps_per_epoch: int) -> int:
    """Optimiser steps of the whole run."""
    if config.steps is not None:
        steps = config.steps
    else:
        assert config.epochs is not None
        steps = config.epochs * steps_per_epoch
    if config.warmup_steps >= steps:
        raise ConfigError(
            f"schedule.warmup_steps ({config.warmup_steps}) must be below the run's {steps} steps"
        )
    return steps


def lr_factor(step: int, total: int, config: ScheduleConfig) -> float:
    """Factor on every base learning rate at 0-based `step`: (1 - t/T)^power.

    The reference writes the rate after each step, so steps 0 and 1 both use the full rate: t is the number of
    steps before the previous one.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    return (1 - max(step - 1, 0) / total) ** config.power

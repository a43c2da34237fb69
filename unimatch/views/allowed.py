"""The values that the settings of views may have."""

from __future__ import annotations

from unimatch.errors import ConfigError


def check(ok: bool, name: str, value: object, allowed: str) -> None:
    """ConfigError, naming a setting, its value and what is allowed, unless `ok`."""
    if not ok:
        raise ConfigError(f"{name} is {value!r}; allowed: {allowed}")


def check_p(name: str, value: float) -> None:
    """ConfigError unless `value` is a probability."""
    check(0.0 <= value <= 1.0, name, value, "a probability, 0 to 1")

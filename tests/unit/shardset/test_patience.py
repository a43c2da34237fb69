from __future__ import annotations

import pytest

from unimatch.errors import DataError
from unimatch.shardset import patience
from unimatch.shardset.patience import Patience


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was waited, without waiting; the chance in it is taken out."""
    waited: list[float] = []
    monkeypatch.setattr(patience.time, "sleep", waited.append)
    monkeypatch.setattr(patience.WAITS, "uniform", lambda low, high: (low + high) / 2)
    return waited


def test_waits_double_until_the_last_try_and_begin_anew_with_progress(waits: list[float]):
    one = Patience("https://host/file")
    for _ in range(4):
        one.failed(ConnectionError("lost"))
    assert waits == [1.0, 2.0, 4.0, 8.0]
    one.renew()
    one.failed(ConnectionError("lost"))
    assert waits[4:] == [1.0]
    for _ in range(3):
        one.failed(ConnectionError("lost"))
    with pytest.raises(DataError, match="https://host/file: .* given up after 5 tries; the last"):
        one.failed(ConnectionError("lost"))
    assert len(waits) == 8, "not after the last one"


@pytest.mark.parametrize(
    ("status", "worth"), [(408, True), (429, True), (500, True), (403, False), (404, False)]
)
def test_what_cannot_get_better_is_not_waited_for(waits: list[float], status: int, worth: bool):
    error = ConnectionError("refused")
    error.status = status  # type: ignore[attr-defined]
    if worth:
        Patience("x").failed(error)
    else:
        with pytest.raises(DataError, match=f"x: cannot be fetched: HTTP status {status}"):
            Patience("x").failed(error)
    assert len(waits) == worth

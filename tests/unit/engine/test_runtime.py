"""What a runtime makes of what other processes say; real ones are in tests/dist."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from unimatch.engine.runtime import Runtime
from unimatch.errors import DataError, UserError


def among(*others: object) -> Runtime:
    """Rank 0; the others say what they are told to."""
    runtime = Runtime()
    runtime.world = 1 + len(others)
    runtime.gather = lambda value: [value, *others]  # type: ignore[method-assign]
    return runtime


def end(runtime: Runtime, problem: Exception | None) -> None:
    with runtime.together():
        if problem:
            raise problem


@pytest.mark.parametrize(
    ("own", "others", "told"),
    [
        (UserError("no disk"), ["no disk"], "no disk"),
        (UserError("no disk"), [None], "rank 0: no disk"),
        (None, [None, "no disk"], "rank 2: no disk"),
        (DataError("bad shard"), ["no disk", None, "no disk"], "rank 0: bad shard\nrank 1, 3: no disk"),
        (OSError(28, "No space left", "/run"), [None], "rank 0: /run: No space left"),
    ],
)
def test_what_one_process_cannot_do_ends_all_with_one_message(
    own: Exception | None, others: Sequence[str | None], told: str
):
    with pytest.raises(UserError) as error:
        end(among(*others), own)
    assert str(error.value) == told


def test_where_all_is_well_nobody_is_stopped_and_a_bug_is_no_message():
    end(among(None, None), None)
    with pytest.raises(ZeroDivisionError):
        end(among("no disk"), ZeroDivisionError())


def test_alone_a_sum_is_the_value_itself_and_nothing_waits():
    runtime, values = Runtime(), torch.tensor([1.0, 2.0])
    for found in (runtime.sum_on_host(values), runtime.sum_on_device(values)):
        assert torch.equal(found, torch.tensor([1.0, 2.0]))
    assert runtime.gather("x") == ["x"] and runtime.is_main
    runtime.barrier()
    runtime.await_all()
    assert runtime.all_reduce_s(64) >= 0.0


def test_an_all_reduce_that_counts_wrong_is_an_error(monkeypatch: pytest.MonkeyPatch):
    runtime = Runtime()
    monkeypatch.setattr(runtime, "sum_on_device", lambda values: 2 * values)
    with pytest.raises(UserError, match="an all-reduce over 1 processes counted 2 of them"):
        runtime.all_reduce_s(64)


def test_half_precision_needs_a_gpu():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, where fp16 is allowed")
    with pytest.raises(UserError, match="precision: fp16 needs a GPU"):
        Runtime("fp16")

from __future__ import annotations

import re

import pytest

from unimatch.engine.preflight import mismatches, preflight, ranks
from unimatch.engine.run_config import RunConfig
from unimatch.engine.runtime import Runtime
from unimatch.errors import UserError


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([3], "rank 3"), ([0, 1], "ranks 0-1"), ([0, 2, 3, 4, 9], "ranks 0, 2-4, 9")],
)
def test_ranks_are_told_in_few_words(numbers, text):
    assert ranks(numbers) == text


def test_what_differs_is_told_with_ranks_and_values():
    old, new = {"torch": "2.9", "commit": "abc", "seed": "0"}, {"torch": "2.10", "commit": "abc", "seed": "0"}
    assert mismatches([old] * 3) == []
    assert mismatches([old, new, new, old]) == ["torch: 2.9 on ranks 0, 3; 2.10 on ranks 1-2"]
    assert mismatches([old, {**new, "seed": "1"}]) == [
        "torch: 2.9 on rank 0; 2.10 on rank 1",
        "seed: 0 on rank 0; 1 on rank 1",
    ]


def test_a_setting_that_only_some_have_differs():
    assert mismatches([{}, {"a": "1"}]) == ["a: not set on rank 0; 1 on rank 1"]


def test_what_one_process_cannot_know_is_no_mismatch():
    assert mismatches([{"commit": "unknown"}, {"commit": "abc"}, {"commit": "abc"}]) == []
    assert len(mismatches([{"commit": "unknown"}, {"commit": "abc"}, {"commit": "abd"}])) == 1


def test_one_process_says_what_it_runs_on(tiny_config: RunConfig):
    lines = preflight(tiny_config, Runtime(), resume=False)[1].splitlines()
    assert lines[0] == "preflight" and len(lines) == 3
    assert re.fullmatch(r"  host \S+ \(node 0\): rank 0 on \w.*", lines[1])
    assert re.search(r"torch \d.*, commit \w+.*; settings [0-9a-f]{16}$", lines[2])


def test_shards_that_are_not_there_are_an_error_before_anything_is_built(tiny_config: RunConfig):
    tiny_config.data.shards = "/nowhere"
    with pytest.raises(UserError, match="^/nowhere: no such folder"):
        preflight(tiny_config, Runtime(), resume=False)

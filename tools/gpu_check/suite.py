"""The tests of tests/gpu, each as a line, told as soon as it has ended."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from .results import Teller

ROOT = Path(__file__).parents[2]


class Lines:
    """A plugin of pytest that tells of each test: a part that is stopped has told of those before."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return  # what came before the test, or behind it
        self.counts[report.outcome] += 1
        file, _, test = report.location
        passed, note = {"passed": True, "failed": False}.get(report.outcome), ""
        if report.outcome == "failed":
            crash = getattr(report.longrepr, "reprcrash", None)
            note = str(crash.message if crash else report.longrepr)[:500]
        elif isinstance(report.longrepr, tuple):
            note = report.longrepr[2][:300]
        seconds = round(report.duration, 2)
        self._teller.tell(f"{Path(file).stem}: {test}", passed=passed, note=note, test_s=seconds)


def run(teller: Teller) -> None:
    # In the repository, whose settings pytest reads; with whatever plugins there are.
    os.chdir(ROOT)
    sys.dont_write_bytecode = True
    lines = Lines(teller)
    code = pytest.main([str(ROOT / "tests" / "gpu"), "-q", "-p", "no:cacheprovider"], plugins=[lines])
    good = code == 0 and lines.counts["failed"] == 0
    teller.put("all tests", lines.counts, good)

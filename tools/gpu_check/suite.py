"""The tests of tests/gpu, each as a line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from .results import Teller

TESTS = Path(__file__).parents[2] / "tests" / "gpu"


def run(teller: Teller) -> None:
    found = teller.out / "tests.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        str(TESTS),
        "-q",
        "-p",
        "no:cacheprovider",
        f"--junitxml={found}",
    ]
    command += ["-o", "junit_family=xunit2"]
    # In the repository, whose settings pytest reads; with whatever plugins there are.
    code = subprocess.run(
        command, cwd=TESTS.parents[1], env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    ).returncode
    if not found.exists():
        teller.tell("pytest", passed=False, note=f"ended with {code} before it wrote results")
        return
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for case in ElementTree.parse(found).iter("testcase"):
        kinds = {child.tag: child.get("message") or "" for child in case}
        name = f"{case.get('classname', '').split('.')[-1]}: {case.get('name')}"
        seconds = float(case.get("time", 0))
        if "failure" in kinds or "error" in kinds:
            counts["failed"] += 1
            message = kinds.get("failure") or kinds.get("error") or ""
            teller.tell(name, passed=False, note=message[:500], test_s=seconds)
        elif "skipped" in kinds:
            counts["skipped"] += 1
            teller.tell(name, note=f"skipped: {kinds['skipped']}"[:300], test_s=seconds)
        else:
            counts["passed"] += 1
            teller.tell(name, passed=True, test_s=seconds)
    found.unlink()
    teller.put("all tests", counts, counts["failed"] == 0 and code == 0)

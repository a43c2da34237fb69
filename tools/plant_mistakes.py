"""Plants the mistakes of tests/mistakes/*.yaml one at a time and tells which of them the tests see.

    python tools/plant_mistakes.py [--room engine ...] [--only WORDS] [--jobs N]

Each is planted in a copy of the working tree, alone, and the tests that should see it run there until one
fails. A mistake that no test sees is a survivor: write the test, or say in its `survives` why there is none.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from queue import SimpleQueue
from threading import Timer

import yaml

ROOT = Path(__file__).resolve().parents[1]
MISTAKES = ROOT / "tests" / "mistakes"
TIMEOUT_S = 600.0  # a mistake that makes a test hang is seen as well, later
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast where it is there
PASSED, FAILED = 0, 1  # exit codes of pytest
# Imported once, before the tree that holds the mistake: a test run forks from it and starts in a second.
HEAVY = (
    "accelerate",
    "cv2",
    "fsspec.implementations.http",
    "h5py",
    "nibabel",
    "numba",
    "numpy",
    "pytest",
    "scipy.ndimage",
    "timm",
    "torch.utils.tensorboard",
    "webdataset",
)
# Reads the arguments of a test run a line; answers with the process that runs it, then with its exit code.
SERVER = """
import importlib, os, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
import pytest
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.setsid()
        log = os.open("pytest.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1), os.dup2(log, 2)
        sys.path.insert(0, os.getcwd())
        os._exit(pytest.main([*line.split(), "-x", "-q", "-p", "no:cacheprovider"]))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Mistake:
    """One replacement in one file, and the tests that should fail with it."""

    room: str
    what: str  # in a few words, for the table
    file: str
    old: str  # occurs exactly once
    new: str
    tests: tuple[str, ...]
    survives: str = ""  # why no test sees it

    def planted(self, text: str) -> str:
        """The file's text with the mistake in it. ValueError unless the old text occurs once."""
        if self.old == self.new:
            raise ValueError(f"{self.room}: {self.what}: changes nothing")
        count = text.count(self.old)
        if count != 1:
            raise ValueError(
                f"{self.room}: {self.what}: {self.file} holds the old text {count} times, not once"
            )
        return text.replace(self.old, self.new)


def mistakes(folder: Path = MISTAKES) -> list[Mistake]:
    """All mistakes, a room a file. ValueError for one that is not complete or named twice."""
    found = []
    for path in sorted(folder.glob("*.yaml")):
        for entry in yaml.load(path.read_text(), LOADER):
            unknown = entry.keys() - {one.name for one in fields(Mistake)}
            if unknown:
                raise ValueError(f"{path.name}: {entry.get('what')}: unknown keys {sorted(unknown)}")
            tests = entry.pop("tests")
            found.append(Mistake(room=path.stem, tests=tuple(tests.split()), **entry))
    names = [(one.room, one.what) for one in found]
    repeated = {f"{room}: {what}" for room, what in names if names.count((room, what)) > 1}
    if repeated:
        raise ValueError(f"named twice: {', '.join(sorted(repeated))}")
    return found


@dataclass
class Tried:
    """A mistake and what became of it."""

    mistake: Mistake
    code: int | None  # of pytest; None: the tests took too long
    seconds: float
    said: str = field(default="", repr=False)  # the last lines of the tests

    @property
    def caught(self) -> bool:
        return self.code is None or self.code == FAILED


class Tree:
    """A copy of the working tree in which tests run, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"]
        for name in subprocess.run(listed, capture_output=True, text=True, check=True).stdout.splitlines():
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        data = os.environ.get("UNIMATCH_TEST_DATA", str(ROOT.parent / "shared" / "data"))
        env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        env |= {"OMP_NUM_THREADS": "1", "UNIMATCH_TEST_DATA": data}
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER, *HEAVY], cwd=folder, env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._answer() == "ready"

    def _answer(self) -> str:
        assert self.server.stdout is not None
        return self.server.stdout.readline().strip()

    def run(self, tests: Sequence[str]) -> tuple[int | None, str]:
        """Exit code of pytest, None if it took too long, and its last lines."""
        assert self.server.stdin is not None
        print(*tests, file=self.server.stdin, flush=True)
        child, late = int(self._answer()), False

        def end() -> None:
            nonlocal late
            late = True
            os.killpg(child, signal.SIGKILL)

        timer = Timer(TIMEOUT_S, end)
        timer.start()
        code = int(self._answer())
        timer.cancel()
        return (None if late else code), (self.folder / "pytest.log").read_text(errors="replace")[-2000:]

    def tried(self, mistake: Mistake) -> Tried:
        path = self.folder / mistake.file
        text, times = path.read_text(), path.stat()
        path.write_text(mistake.planted(text))
        began = time.monotonic()
        try:
            code, said = self.run(mistake.tests)
        finally:
            path.write_text(text)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # compiled loops stay valid
        return Tried(mistake, code, time.monotonic() - began, said)

    def close(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait()


def table(tried: Sequence[Tried]) -> str:
    """Markdown: planted and caught by room, then the survivors and why."""
    lines = ["| room | planted | caught |", "| --- | ---: | ---: |"]
    rooms = sorted({one.mistake.room for one in tried})
    for room in [*rooms, "all"]:
        mine = [one for one in tried if room in ("all", one.mistake.room)]
        lines.append(f"| {room} | {len(mine)} | {sum(one.caught for one in mine)} |")
    for one in tried:
        if not one.caught:
            reason = one.mistake.survives or "NO TEST SEES IT"
            lines.append(f"- {one.mistake.room}: {one.mistake.what} ({one.mistake.file}): {reason}")
    return "\n".join(lines)


def run_all(chosen: Sequence[Mistake], jobs: int) -> Iterator[Tried]:
    """Each mistake with what became of it, as they are done."""
    with tempfile.TemporaryDirectory(prefix="mistakes-") as folder:
        trees: SimpleQueue[Tree] = SimpleQueue()
        for number in range(jobs):
            (Path(folder) / str(number)).mkdir()
            trees.put(Tree(Path(folder) / str(number)))

        def one(mistake: Mistake) -> Tried:
            tree = trees.get()
            try:
                return tree.tried(mistake)
            finally:
                trees.put(tree)

        with ThreadPoolExecutor(jobs) as pool:
            yield from pool.map(one, chosen)
        while not trees.empty():
            trees.get().close()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--room", nargs="*", help="only these files of tests/mistakes")
    parser.add_argument("--only", default="", help="only mistakes with these words in what they say or where")
    parser.add_argument("--jobs", type=int, default=1, help="copies that run at the same time")
    options = parser.parse_args()
    chosen = [
        one
        for one in mistakes()
        if (not options.room or one.room in options.room) and options.only in f"{one.what} {one.file}"
    ]
    for one in chosen:
        one.planted((ROOT / one.file).read_text())
    tried = []
    for done in run_all(chosen, options.jobs):
        tried.append(done)
        word = (
            "caught" if done.caught else "SURVIVED" if done.code == PASSED else f"BROKEN (pytest {done.code})"
        )
        print(f"{done.seconds:6.1f} s  {word:9} {done.mistake.room}: {done.mistake.what}", flush=True)
        if done.code not in (PASSED, FAILED, None):
            print(done.said, flush=True)
    print(table(tried))
    unexplained = [one for one in tried if not one.caught and not one.mistake.survives]
    broken = [one for one in tried if one.code not in (PASSED, FAILED, None)]
    return 1 if unexplained or broken else 0


if __name__ == "__main__":
    sys.exit(main())

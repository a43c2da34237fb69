"""Checkpoints are written beside the training, by all processes, one at a time.

A process copies its part of the state to the host's memory and writes it. When all parts are on disk, the
first process joins what must be whole and gives the folder its name. The training waits for the copy alone,
and before the next update alone: until then a step reads the weights and changes none.
"""

from __future__ import annotations

import contextlib
import copy
import shutil
import threading
import traceback
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unimatch.durable import sync
from unimatch.engine import checkpoint, parts
from unimatch.engine.checkpoint_folder import begin, commit, drop, partial_of, point, write_folder, writing
from unimatch.engine.runtime import Runtime
from unimatch.errors import UserError

SHARED = "the run folder must lie on storage that all hosts share"
LEAVE_S = 5.0  # for a checkpoint that others may never complete; less than WATCHDOG_GRACE_S


@dataclass(frozen=True)
class Held:
    """What a process has of a run's state. Values of large tensors are the training's own."""

    networks: Mapping[str, parts.Part]
    optimizer: parts.Part
    engine: dict[str, Any]  # what `optimizer` lacks of checkpoint.load_engine's; used on rank 0


@dataclass(frozen=True)
class _Job:
    """A folder to be written. `engine`: None in <run>/best, which holds weights alone."""

    folder: Path
    state: checkpoint.TrainerState
    files: dict[str, parts.Pieces]  # this process's
    parted: list[str]  # networks that no process has whole
    engine: dict[str, Any] | None
    best: bool  # <run>/best becomes the same


class Saver:
    """Writes the checkpoints of one run; all processes make the same calls."""

    def __init__(
        self, runtime: Runtime, run: Path, keep: int, always: Collection[int], background: bool
    ) -> None:
        """keep, always: the newest checkpoints, and those of these steps, stay. background: in a thread."""
        self._runtime = runtime
        self._run = run
        self._keep = keep
        self._always = always
        self._background = background
        self._thread: threading.Thread | None = None
        self._copied = threading.Event()
        self._copied.set()
        self.problem: UserError | None = None  # of this process, since the last `finish`

    def save(self, state: checkpoint.TrainerState, held: Held, whole: bool, best: bool) -> None:
        """Begins a checkpoint (`whole`), or <run>/best, or both; waits for the one before it.

        Until `copied` returns, the tensors of `held` must stay as they are. UserError: as `finish`.
        """
        folder = checkpoint.step_folder(self._run, state.step) if whole else self._run / "best"
        with self._runtime.together():
            self._settle()
            if self._runtime.is_main:
                with writing(folder):
                    begin(folder)
        rank, world = self._runtime.rank, self._runtime.world
        job = _Job(
            folder,
            copy.copy(state),
            parts.deal(held.networks, held.optimizer if whole else None, rank, world),
            [name for name, part in held.networks.items() if not part.shared],
            parts.on_host(held.engine) if whole and self._runtime.is_main else None,
            whole and best,
        )
        self._copied.clear()
        ready = None
        if self._runtime.device.type == "cuda":
            ready = torch.cuda.current_stream(self._runtime.device).record_event()
        if not self._background:
            self._write(job, ready)
            self.finish()
            return
        # A daemon: a process that ends for another reason does not wait for its disk.
        self._thread = threading.Thread(target=self._write, args=(job, ready), name="checkpoint", daemon=True)
        self._thread.start()

    def copied(self) -> None:
        """Returns when the state may change again."""
        self._copied.wait()

    def finish(self) -> None:
        """Returns when the last checkpoint is complete. UserError on all processes if one could not write."""
        with self._runtime.together():
            self._settle()

    def leave(self, because: BaseException) -> None:
        """The same on the way out, for this process alone; its own error would hide what ends the run.

        A UserError is known to all, and they write to the end. Otherwise one of them may be gone.
        """
        if self._thread is not None:
            self._thread.join(None if isinstance(because, UserError) else LEAVE_S)

    def _settle(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self.problem is not None:
            problem, self.problem = self.problem, None
            raise problem

    def _write(self, job: _Job, ready: torch.cuda.Event | None) -> None:
        """The thread: writes this process's files; once all have, rank 0 completes the folder."""
        try:
            told: str | dict[str, int] = self._own_files(job, ready)
        except UserError as error:
            self.problem, told = error, str(error)
        except Exception as error:
            traceback.print_exc()
            told = f"could not write the checkpoint {job.folder}: {error!r}"
            self.problem = UserError(told)
        finally:
            self._copied.set()
        try:
            answers = self._runtime.gather_beside(told)
        except RuntimeError as error:
            # A process is gone, and the training's own messages tell which; or one writes for too long.
            text = f"{job.folder}: not all processes wrote their parts of it in time ({error})"
            self.problem = UserError(f"{text}; earlier checkpoints are intact. Raise --timeout")
            return
        if self._runtime.is_main:
            try:
                self._complete(job, answers)
            except UserError as error:
                self.problem = self.problem or error
            except Exception as error:
                traceback.print_exc()
                self.problem = UserError(f"could not complete the checkpoint {job.folder}: {error!r}")

    def _own_files(self, job: _Job, ready: torch.cuda.Event | None) -> dict[str, int]:
        """Sizes in bytes of the files, which are on disk."""
        partial = partial_of(job.folder)
        with writing(job.folder):
            if not partial.is_dir():
                raise OSError(f"process 0 has made {partial}, which is not here: {SHARED}")
            copies = _to_host(job.files, ready)
            self._copied.set()
            sizes = {}
            for file in list(copies):
                path = parts.write(partial, file, copies.pop(file))
                sync(path)
                sizes[file] = path.stat().st_size
            return sizes

    def _complete(self, job: _Job, answers: list[Any]) -> None:
        if any(isinstance(answer, str) for answer in answers):
            drop(job.folder)
            return
        try:
            with writing(job.folder):
                partial = partial_of(job.folder)
                files = {file: size for answer in answers for file, size in answer.items()}
                _require(partial, files)
                for name in job.parted:
                    own = [partial / file for file in sorted(files) if Path(file).parent.name == name]
                    checkpoint.save_networks(partial, {name: parts.join(own)})
                    shutil.rmtree(partial / name)
                if job.engine is not None:
                    large = [file for file in sorted(files) if Path(file).parent.name == parts.OPTIMIZER]
                    checkpoint.save_engine(partial, job.engine, large)
                checkpoint.save_state(partial, job.state)
                if job.best:
                    # First, as the checkpoint says that it is there.
                    write_folder(self._run / "best", lambda best: _copy_weights(partial, best))
                commit(job.folder)
                if job.engine is not None:
                    point(self._run / "last", Path("checkpoints") / job.folder.name)
                    checkpoint.keep_newest(self._run, self._keep, (*self._always, job.state.step))
        except UserError:
            drop(job.folder)
            raise


def _to_host(files: dict[str, parts.Pieces], ready: torch.cuda.Event | None) -> dict[str, parts.Pieces]:
    """Contiguous copies in the host's memory. ready: after it, on a GPU, the values are the state's."""
    copies: dict[str, parts.Pieces] = {}
    stream = None
    if ready is not None:
        # Beside what the training computes meanwhile; only pinned memory is copied to without a wait.
        stream = torch.cuda.Stream()
        stream.wait_event(ready)
    with torch.cuda.stream(stream) if stream is not None else contextlib.nullcontext():
        for file, pieces in files.items():
            copies[file] = {}
            for name, piece in pieces.items():
                live = piece.values
                pinned = live.device.type == "cuda"
                values = torch.empty(live.shape, dtype=live.dtype, pin_memory=pinned)
                values.copy_(live, non_blocking=pinned)
                copies[file][name] = parts.Piece(values, piece.start, piece.shape)
    if stream is not None:
        stream.synchronize()
    return copies


def _require(partial: Path, files: dict[str, int]) -> None:
    """OSError if a file that another process has written is not here."""
    for file, size in files.items():
        path = partial / file
        if not path.exists() or path.stat().st_size != size:
            raise OSError(f"another process has written {file} ({size} bytes), which is not here: {SHARED}")


def _copy_weights(folder: Path, best: Path) -> None:
    for path in (*folder.glob("*.safetensors"), folder / "trainer.json"):
        shutil.copyfile(path, best / path.name)

"""All-or-nothing outputs: work under a hidden name beside the final one, then rename."""

import contextlib
import fcntl
import glob
import os
import pathlib
import shutil
import uuid
from collections.abc import Callable, Iterator
from typing import IO

from beam_pipelines.errors import InputError

_JOB_FILE = "job.json"  # says in a work folder what its content was made for
WORK = "work"  # a folder in a new folder that a failure doesn't keep


class KeepFailed(InputError):
    """A failure that leaves something to look at: the unfinished folder stays as `*.failed`."""


def failed_folder(output: pathlib.Path) -> pathlib.Path:
    """Where `new_folder` keeps what a `KeepFailed` left."""
    return _sibling(output, "failed")


def _sibling(output: pathlib.Path, ending: str) -> pathlib.Path:
    return output.with_name(f".{output.name}.{ending}")


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _only_writer(output: pathlib.Path) -> Iterator[None]:
    """Holds a lock that ends with the process, so that two jobs never share a folder."""
    output.parent.mkdir(parents=True, exist_ok=True)
    lock = _sibling(output, "lock")
    file = _locked(lock)
    if file is None:
        raise InputError(f"Another process is writing {output}; wait for it to end.")
    with file:
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _locked(lock: pathlib.Path) -> IO[str] | None:
    """The lock file, held; None when another process holds it."""
    while True:
        file = lock.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_ino == lock.stat().st_ino:
                return file
        except BlockingIOError:
            file.close()
            return None
        except FileNotFoundError:
            pass
        file.close()  # its last holder removed it meanwhile: lock the new one


@contextlib.contextmanager
def new_folder(
    output: pathlib.Path, *, is_ours: Callable[[pathlib.Path], bool]
) -> Iterator[pathlib.Path]:
    """An empty folder that becomes `output` when the block succeeds, replacing an older one.

    Leftovers of an interrupted run are removed first; its workers, which may live a little
    longer, write into a folder of their own. A folder under the final name that is
    neither empty nor `is_ours` is refused: it may be somebody's home.
    """
    if output.exists() and not (output.is_dir() and (is_ours(output) or not any(output.iterdir()))):
        raise InputError(
            f"output {output} exists and is not an older result of this job; "
            "name another folder or remove it."
        )
    unfinished, old = _sibling(output, f"incomplete-{uuid.uuid4().hex}"), _sibling(output, "old")
    with _only_writer(output):
        if old.exists() and not (output.is_dir() and any(output.iterdir())):
            # Killed between the two renames below; somebody may have made the folder anew.
            os.replace(old, output)
        leftovers = output.parent.glob(glob.escape(f".{output.name}.incomplete") + "*")
        for leftover in (*leftovers, old, failed_folder(output)):
            _remove(leftover)
        unfinished.mkdir(parents=True)
        try:
            yield unfinished
        except KeepFailed:
            _remove(unfinished / WORK)
            os.replace(unfinished, failed_folder(output))
            raise
        except BaseException:
            _remove(unfinished)
            raise
        if output.exists():
            os.replace(output, old)
        os.replace(unfinished, output)
        _remove(old)


@contextlib.contextmanager
def new_file(output: pathlib.Path, *, job: str) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    """A path that becomes `output` when the block succeeds, and a folder to work in.

    The folder outlives a failure: the same `job` finds in it what was finished before.
    """
    if output.is_dir():
        raise InputError(f"output {output} is a folder; name a file in it.")
    unfinished, work = _sibling(output, "incomplete"), _sibling(output, "work")
    with _only_writer(output):
        made_by = work / _JOB_FILE
        if not made_by.is_file() or made_by.read_text(encoding="utf-8") != job:
            _remove(work)
            work.mkdir()
            made_by.write_text(job, encoding="utf-8")
        for leftover in (unfinished, *work.glob("error-*"), *work.glob("*.tmp")):
            _remove(leftover)
        try:
            yield unfinished, work
            os.replace(unfinished, output)
        finally:
            _remove(unfinished)
        _remove(work)

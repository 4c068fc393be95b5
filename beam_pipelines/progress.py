"""Progress on the terminal: what the workers have done, read from small files they write.

Files work for every runner: a Beam metric is only known when the pipeline has ended.
"""

import contextlib
import os
import pathlib
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import TextIO

_TTY_SECONDS, _PLAIN_SECONDS = 0.5, 10.0


def report(folder: pathlib.Path, worker: str, done: int) -> None:
    """Says how many units one worker has done in all."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{worker}.{uuid.uuid4().hex}.part"
    part.write_text(str(done))
    os.replace(part, folder / worker)


def total(folder: pathlib.Path) -> int:
    """Units done by all workers."""
    done = 0
    for path in folder.glob("*[0-9]"):
        with contextlib.suppress(OSError, ValueError):
            done += int(path.read_text())
    return done


@contextlib.contextmanager
def stage(
    label: str, *, folder: pathlib.Path, unit: str, stream: TextIO | None = None
) -> Iterator[None]:
    """Prints the progress of a stage while the block runs, and a closing line after it.

    On a terminal one line is rewritten; elsewhere a line appears every ten seconds.
    """
    stream = stream or sys.stderr
    folder.mkdir(parents=True, exist_ok=True)
    tty, ended, began = stream.isatty(), threading.Event(), time.monotonic()

    def line() -> str:
        done, seconds = total(folder), time.monotonic() - began
        rate = f"{done:>12,} {unit}  {done / max(seconds, 1e-3):>9,.0f}/s" if done else ""
        return f"{label:<20} {rate:<40} {seconds:>7.1f} s"

    def show() -> None:
        while not ended.wait(_TTY_SECONDS if tty else _PLAIN_SECONDS):
            print(
                "\r" + line() if tty else line(), end="" if tty else "\n", file=stream, flush=True
            )

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    print(("\r" if tty else "") + line(), file=stream, flush=True)

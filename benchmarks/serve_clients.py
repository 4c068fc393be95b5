"""A server in a process of its own, and the processes of clients that load it; for serve.py."""

import contextlib
import json
import pathlib
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

PROCESSES = 2  # of clients


@contextlib.contextmanager
def server(*arguments: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """(process, address) of `guim serve`."""
    command = [sys.executable, "-m", "serving.command", "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("ready at "):
                break
        else:
            raise SystemExit("the server did not start")
        # Nobody reads on: a full pipe would hold the server up.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield process, line.removeprefix("ready at ").partition(": ")[0]
    finally:
        process.terminate()
        process.wait(60)


def memory_mb(process: subprocess.Popen, what: str = "VmRSS") -> int:
    """Memory of a process; VmHWM is the most that it ever had."""
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0]) // 1024


class Load:
    """Client processes that are ready to go."""

    def __init__(
        self,
        address: str,
        requests: pathlib.Path,
        *,
        seconds: float,
        clients: int = 0,
        rate: float = 0.0,
        deadline: float = 30.0,
        seed: int = 0,
    ) -> None:
        count = min(PROCESSES, clients or PROCESSES)
        shared = ["--address", address, "--requests", str(requests), "--seconds", str(seconds)]
        shared += ["--deadline", str(deadline)]
        self._processes = []
        for number in range(count):
            amount = (
                ["--rate", str(rate / count)]
                if rate
                else ["--clients", str(clients // count + (number < clients % count))]
            )
            command = [sys.executable, str(pathlib.Path(__file__).with_name("load.py")), *shared]
            command += [*amount, "--seed", str(seed * PROCESSES + number)]
            self._processes.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
        for process in self._processes:
            if process.stdout.readline() != "ready\n":
                raise SystemExit("a client did not start")

    def go(self) -> None:
        for process in self._processes:
            process.stdin.write("go\n")
            process.stdin.flush()

    def result(self) -> "Figures":
        found = [json.loads(process.stdout.readline()) for process in self._processes]
        for process in self._processes:
            process.wait()
        samples = [sample for one in found for sample in one["samples"]]
        return Figures(samples, max(one["seconds"] for one in found))

    def run(self) -> "Figures":
        self.go()
        return self.result()


class Figures:
    """What clients saw."""

    def __init__(self, samples: list[list[Any]], seconds: float) -> None:
        self.statuses = Counter(status for status, _ in samples)
        accepted = [ms for status, ms in samples if status == "OK"]
        self.latencies = np.array(accepted or [float("nan")])
        self.refused = np.array([ms for status, ms in samples if status != "OK"] or [0.0])
        self.qps = len(accepted) / seconds
        self.asked = len(samples) / seconds

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.latencies, share))

    def summary(self) -> dict[str, float]:
        return {
            "qps": round(self.qps, 1),
            "p50_ms": round(self.percentile(50), 2),
            "p99_ms": round(self.percentile(99), 2),
            "p99_9_ms": round(self.percentile(99.9), 2),
        }

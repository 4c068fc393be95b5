"""A server under load, against the same SavedModel called in-process. Prints a JSON line a part.

    python benchmarks/serve.py [--work work/synthetic] [--parts encode_users overload ...]

`--work` is the folder of `make demo`: its models and data set. Clients are processes of their own
with the official stubs; the server is `guim serve` in a process of its own. Ratios are of one run:
`grpc_over_inprocess` is users a second of 32 clients over the best in-process batch size,
`p50_over_inprocess` one client's median over that of a single in-process call.
"""

import argparse
import contextlib
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from serving.batching_parameters import BatchingParameters

HISTORY = 100  # N
BATCHES = (1, 2, 4, 8, 16, 32, 64)
CLIENTS = (1, 4, 16, 32, 64)
AT_CAPACITY = 32  # clients
K = 20
REQUESTS = 256
PROCESSES = 2  # of clients
PARTS = ("encode_users", "recommend", "overload", "swaps")
MODELS = {"encode_users": "user_encoder", "recommend": "retrieval"}


def histories(dataset: pathlib.Path, count: int, *, seed: int) -> dict[str, np.ndarray]:
    """Inputs of `encode_users`: `[count, N]` events of the catalogue, a popular item more often."""
    import pyarrow.parquet as pq

    from guim_tf.schema import Schema

    random = np.random.default_rng(seed)
    table = pq.read_table(dataset / "items.parquet").to_pydict()
    weights = np.array(table["count"], float) + 1
    rows = random.choice(len(weights), (count, HISTORY), p=weights / weights.sum())
    schema = Schema.load(dataset)
    ages = random.integers(1, 365 * 86_400, (count, HISTORY))
    inputs = {
        name: np.array(table[name], object)[rows] for name in ("item_id", "category_id", "title")
    }
    inputs["timestamp"] = np.sort(schema.as_of - ages, axis=1)
    inputs["as_of"] = np.full(count, schema.as_of)
    return inputs


def inputs_of(signature: str, users: dict[str, np.ndarray], part: slice) -> dict[str, np.ndarray]:
    found = {name: values[part] for name, values in users.items()}
    if signature == "recommend":
        found |= {"k": np.array(K, np.int32), "exclude_seen": np.array(True)}
    return found


def in_process(models: pathlib.Path, dataset: pathlib.Path, signature: str, seconds: float) -> None:
    """Prints users a second by batch size, and the median of single calls, as JSON."""
    import tensorflow as tf

    from serving.servable import register_ops
    from serving.versions import find_versions

    register_ops()
    folder = models / MODELS[signature]
    model = tf.saved_model.load(str(folder / str(find_versions(folder)[-1])))
    call = model.signatures[signature]
    users = histories(dataset, max(BATCHES), seed=0)
    rates, single = {}, 0.0
    for size in BATCHES:
        inputs = inputs_of(signature, users, slice(size))
        tensors = {
            name: tf.constant(x, tf.string if x.dtype == object else None)
            for name, x in inputs.items()
        }
        call(**tensors)
        took, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            call(**tensors)
            took.append(time.perf_counter() - start)
        rates[size] = size / float(np.mean(took))
        if size == 1:
            single = float(np.median(took)) * 1e3
    print(json.dumps({"users_per_s": rates, "p50_ms": single}))


def write_prepared(
    path: pathlib.Path, dataset: pathlib.Path, signature: str, *, rows: int = 1
) -> None:
    """Requests of so many users each."""
    from load import write_requests
    from tensorflow_serving.apis import predict_pb2

    from serving import tensors

    users = histories(dataset, REQUESTS, seed=1)
    requests = []
    for row in range(0, REQUESTS, rows):
        request = predict_pb2.PredictRequest()
        request.model_spec.name = MODELS[signature]
        request.model_spec.signature_name = signature
        for name, values in inputs_of(signature, users, slice(row, row + rows)).items():
            request.inputs[name].CopyFrom(tensors.to_proto(values, name=name))
        requests.append(request)
    write_requests(path, requests)


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


def throughput(work: pathlib.Path, signature: str, seconds: float) -> dict[str, Any]:
    command = [sys.executable, __file__, "--work", str(work), "--in-process", signature]
    command += ["--seconds", str(seconds)]
    inside = json.loads(subprocess.check_output(command, text=True))
    best = max(inside["users_per_s"], key=inside["users_per_s"].get)
    with (
        tempfile.TemporaryDirectory() as folder,
        server("--models", str(work / "models"), "--model", MODELS[signature]) as (_, address),
    ):
        requests = pathlib.Path(folder, "requests")
        write_prepared(requests, work / "dataset", signature)
        by_clients = {
            clients: Load(address, requests, seconds=seconds, clients=clients).run()
            for clients in CLIENTS
        }
        busy = by_clients[AT_CAPACITY]
        # Open loop at half of what 32 clients get: how long answers take when nobody holds back.
        half = Load(address, requests, seconds=seconds, rate=busy.qps / 2).run()
    return {
        "grpc_over_inprocess": round(busy.qps / inside["users_per_s"][best], 3),
        "p50_over_inprocess": round(by_clients[1].percentile(50) / inside["p50_ms"], 3),
        **busy.summary(),
        "failed": sum(n for f in by_clients.values() for s, n in f.statuses.items() if s != "OK"),
        "inprocess_users_per_s": round(inside["users_per_s"][best], 1),
        "inprocess_batch": int(best),
        "inprocess_p50_ms": round(inside["p50_ms"], 2),
        "by_clients": {clients: figures.summary() for clients, figures in by_clients.items()},
        "open_loop_at_half": half.summary(),
    }


def memory_mb(process: subprocess.Popen, what: str = "VmRSS") -> int:
    """Memory of a process; VmHWM is the most that it ever had."""
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0]) // 1024


def overload(work: pathlib.Path, seconds: float, *, rows: int = 8) -> dict[str, Any]:
    """Ten times what the server can do, then what it could do before.

    Requests hold several users, for the clients are on the server's own processors: ten times as
    many requests of one user keep these busy by themselves.
    """
    deadline = 2.0
    parameters = BatchingParameters()
    # As many clients as there are places in the queue: none of them is ever refused.
    holds = parameters.max_enqueued_batches * parameters.max_batch_size // rows
    with (
        tempfile.TemporaryDirectory() as folder,
        server("--models", str(work / "models"), "--model", "user_encoder") as (process, address),
    ):
        requests = pathlib.Path(folder, "requests")
        write_prepared(requests, work / "dataset", "encode_users", rows=rows)
        calm = Load(address, requests, seconds=seconds, clients=holds).run()
        before = memory_mb(process)
        storm = Load(
            address, requests, seconds=2 * seconds, rate=10 * calm.qps, deadline=deadline
        ).run()
        during = memory_mb(process, "VmHWM")
        after = Load(address, requests, seconds=seconds, clients=holds).run()
    return {
        "users_a_request": rows,
        "capacity_qps": round(calm.qps, 1),
        "asked_over_capacity": round(storm.asked / calm.qps, 2),
        "accepted_over_capacity": round(storm.qps / calm.qps, 3),
        "p99_over_unloaded": round(storm.percentile(99) / calm.percentile(99), 3),
        "p99_ms": round(storm.percentile(99), 1),
        "unloaded_p99_ms": round(calm.percentile(99), 1),
        "statuses": dict(storm.statuses),
        "slowest_refusal_over_deadline": round(float(storm.refused.max()) / 1e3 / deadline, 3),
        "rss_mb": [before, during],
        "recovered_over_capacity": round(after.qps / calm.qps, 3),
        "failed_after": sum(n for s, n in after.statuses.items() if s != "OK"),
    }


def swaps(work: pathlib.Path, seconds: float, *, count: int = 20) -> dict[str, Any]:
    """Versions change under load: good ones, a broken one, and one with another schema."""
    import grpc
    from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

    from serving.versions import find_versions

    base = work / "models" / "user_encoder"
    source = base / str(find_versions(base)[-1])
    broken, other = count // 3, 2 * count // 3

    with tempfile.TemporaryDirectory() as folder:
        served = pathlib.Path(folder, "models/user_encoder")
        shutil.copytree(source, served / "1")
        requests = pathlib.Path(folder, "requests")
        write_prepared(requests, work / "dataset", "encode_users")
        with (
            server("--models", str(served.parent), "--poll-seconds", "0.2") as (process, address),
            grpc.insecure_channel(address) as channel,
        ):
            status = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus
            asked = get_model_status_pb2.GetModelStatusRequest()
            asked.model_spec.name = "user_encoder"

            def state(version: int) -> tuple[int, str]:
                for found in status(asked, 60).model_version_status:
                    if found.version == version:
                        return found.state, found.status.error_message
                return 0, ""

            before = memory_mb(process)
            load = Load(address, requests, seconds=seconds * count, clients=AT_CAPACITY)
            load.go()
            refusals, begun = {}, time.monotonic()
            for version in range(2, count + 2):
                copy = served / f".{version}"
                shutil.copytree(source, copy)
                # Of the same size: a version that is not whole would only wait.
                if version == broken:
                    graph = copy / "saved_model.pb"
                    graph.write_bytes(b"\xff" * graph.stat().st_size)
                if version == other:
                    file = copy / "assets.extra/schema.json"
                    file.write_text(file.read_text().replace('"tokenizer": "n', '"tokenizer": "x'))
                copy.rename(served / str(version))
                end = time.monotonic() + 60
                while (now := state(version))[0] not in (30, 50):  # AVAILABLE, END
                    if time.monotonic() > end:
                        raise SystemExit(f"version {version} came to no rest: {now}")
                    time.sleep(0.1)
                if now[0] == 50:
                    refusals[version] = now[1]
                time.sleep(max(0.0, begun + (version - 1) * seconds * 0.95 - time.monotonic()))
            figures = load.result()
            last = [s.version for s in status(asked, 60).model_version_status if s.state == 30]
            after = memory_mb(process)
    return {
        "swaps": count,
        "requests": sum(figures.statuses.values()),
        "failed": sum(n for s, n in figures.statuses.items() if s != "OK"),
        "refused_versions": refusals,
        "served_at_the_end": last,
        **figures.summary(),
        "rss_mb": [before, after],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("work/synthetic"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seconds", type=float, default=6.0, help="a measurement (%(default)s)")
    parser.add_argument("--in-process", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    work = arguments.work.absolute()
    if not (work / "models").is_dir():
        parser.error(f"{work}/models does not exist. Run `make demo` first, or name its --work.")
    if arguments.in_process:
        in_process(work / "models", work / "dataset", arguments.in_process, arguments.seconds / 3)
        return
    for part in arguments.parts:
        if part == "overload":
            figures = overload(work, arguments.seconds)
        elif part == "swaps":
            figures = swaps(work, arguments.seconds)
        else:
            figures = throughput(work, part, arguments.seconds)
        print(json.dumps({"benchmark": "serve", "part": part} | figures), flush=True)


if __name__ == "__main__":
    main()

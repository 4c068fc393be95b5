"""A server under load, against the same SavedModel called in-process. Prints a JSON line a part.

    python benchmarks/serve.py [--work work/synthetic] [--parts encode_users overload ...]

`--work` is the folder of `make demo`: its models and data set. Clients are processes of their own
with the official stubs; the server is `guim serve` in a process of its own. Ratios are of one run:
`grpc_over_inprocess` is users a second of 32 clients over the best in-process batch size,
`p50_over_inprocess` one client's median over that of a single in-process call.
"""

import argparse
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
from serve_clients import Load, memory_mb, server

from serving.batching_parameters import BatchingParameters

HISTORY = 100  # N
BATCHES = (1, 2, 4, 8, 16, 32, 64)
CLIENTS = (1, 4, 16, 32, 64)
AT_CAPACITY = 32  # clients
K = 20
REQUESTS = 256
PARTS = ("encode_users", "recommend", "overload", "swaps", "restart")
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
    """Prints users a second by batch size, and the median of single calls, as JSON.

    With no seconds to measure in it loads the model and calls it for one user alone.
    """
    import tensorflow as tf

    from serving.servable import register_ops
    from serving.versions import find_versions

    register_ops()
    folder = models / MODELS[signature]
    model = tf.saved_model.load(str(folder / str(find_versions(folder)[-1])))
    call = model.signatures[signature]
    users = histories(dataset, max(BATCHES), seed=0)
    rates, single = {}, 0.0
    for size in BATCHES if seconds else (1,):
        inputs = inputs_of(signature, users, slice(size))
        tensors = {
            name: tf.constant(x, tf.string if x.dtype == object else None)
            for name, x in inputs.items()
        }
        call(**tensors)
        took, end = [], time.perf_counter() + seconds
        while not took or time.perf_counter() < end:
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


def overload(work: pathlib.Path, seconds: float) -> dict[str, Any]:
    """Ten times what the server can do, then what it could do before.

    A request holds the users of a whole batch, for the clients are on the server's own processors:
    ten times as many smaller ones keep these busy by themselves.
    """
    deadline = 2.0
    parameters = BatchingParameters()
    rows = parameters.max_batch_size
    holds = parameters.places // rows  # so many clients are never refused
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


def restart(work: pathlib.Path, *, repeats: int = 5) -> dict[str, Any]:
    """From SIGKILL under load to the first answer, against loading the model in a new process."""
    import grpc
    from load import read_requests
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    models = ("--models", str(work / "models"), "--model", "user_encoder")
    loading = [sys.executable, __file__, "--work", str(work), "--in-process", "encode_users"]
    loads, restarts = [], []
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "requests")
        write_prepared(file, work / "dataset", "encode_users")
        request = read_requests(str(file))[0]
        for seed in range(repeats):
            begun = time.monotonic()
            subprocess.check_output([*loading, "--seconds", "0"])
            loads.append(time.monotonic() - begun)
            with server(*models) as (process, address):
                load = Load(address, file, seconds=2, clients=AT_CAPACITY, seed=seed)
                load.go()
                time.sleep(1)
                process.send_signal(signal.SIGKILL)
                begun = time.monotonic()
                with server(*models, "--port", address.rpartition(":")[2]) as (_, again):
                    with grpc.insecure_channel(again) as channel:
                        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
                        stub.Predict(request, 60)
                    restarts.append(time.monotonic() - begun)
                load.result()
    return {
        "restart_over_loading": round(float(np.median(restarts) / np.median(loads)), 3),
        "restart_s": round(float(np.median(restarts)), 2),
        "loading_s": round(float(np.median(loads)), 2),
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
        elif part == "restart":
            figures = restart(work)
        else:
            figures = throughput(work, part, arguments.seconds)
        print(json.dumps({"benchmark": "serve", "part": part} | figures), flush=True)


if __name__ == "__main__":
    main()

"""One process of clients, for serve.py: sends prepared requests and reports what came back.

Reads serialized PredictRequests from a file (each after its length, 4 bytes little-endian), prints
`ready`, waits for a line on stdin, and prints one JSON line: `samples`, for each request its status
and how many milliseconds it took, and `seconds`, from the first request to the last. Closed loop:
each client sends its next request when the last is answered. Open loop: requests are due at random
moments (Poisson) whatever the server does, and time counts from then.
"""

import argparse
import json
import pathlib
import random
import struct
import sys
import threading
import time

import grpc
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

Sample = tuple[str, float]  # status, milliseconds


def read_requests(path: str) -> list[predict_pb2.PredictRequest]:
    data, found, place = pathlib.Path(path).read_bytes(), [], 0
    while place < len(data):
        (size,) = struct.unpack_from("<I", data, place)
        found.append(predict_pb2.PredictRequest.FromString(data[place + 4 : place + 4 + size]))
        place += 4 + size
    return found


def write_requests(path: pathlib.Path, requests: list[predict_pb2.PredictRequest]) -> None:
    with path.open("wb") as file:
        for request in requests:
            data = request.SerializeToString()
            file.write(struct.pack("<I", len(data)) + data)


def closed_loop(stub, requests, *, clients: int, seconds: float, deadline: float, seed: int):
    samples: list[Sample] = []
    end = time.time() + seconds

    def client(number: int) -> None:
        chosen = random.Random(seed * 1000 + number)
        while time.time() < end:
            start, status = time.perf_counter(), "OK"
            try:
                stub.Predict(chosen.choice(requests), deadline)
            except grpc.RpcError as e:
                status = e.code().name
            samples.append((status, (time.perf_counter() - start) * 1e3))

    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return samples, time.time() - end + seconds


def open_loop(stub, requests, *, rate: float, seconds: float, deadline: float, seed: int):
    samples: list[Sample] = []
    chosen = random.Random(seed)
    begun = time.time()
    due, end = begun, begun + seconds
    pending = []
    while (due := due + chosen.expovariate(rate)) < end:
        time.sleep(max(0.0, due - time.time()))

        def answered(future: grpc.Future, due: float = due) -> None:
            samples.append((future.code().name, (time.time() - due) * 1e3))

        future = stub.Predict.future(chosen.choice(requests), deadline)
        future.add_done_callback(answered)
        pending.append(future)
    took = time.time() - begun  # more than asked for where the clients could not keep up
    for future in pending:
        future.exception()
    while len(samples) < len(pending):  # a callback runs after its future is done
        time.sleep(0.01)
    return samples, took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", required=True)
    parser.add_argument("--requests", required=True)
    parser.add_argument("--clients", type=int, help="closed loop")
    parser.add_argument("--rate", type=float, help="requests a second: open loop")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--deadline", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    requests = read_requests(arguments.requests)
    channel = grpc.insecure_channel(
        arguments.address, options=(("grpc.max_receive_message_length", -1),)
    )
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    stub.Predict(requests[0], 60.0)
    print("ready", flush=True)
    sys.stdin.readline()
    shared = {
        "seconds": arguments.seconds,
        "deadline": arguments.deadline,
        "seed": arguments.seed,
    }
    if arguments.rate:
        samples, took = open_loop(stub, requests, rate=arguments.rate, **shared)
    else:
        samples, took = closed_loop(stub, requests, clients=arguments.clients, **shared)
    print(json.dumps({"samples": samples, "seconds": took}), flush=True)


if __name__ == "__main__":
    main()

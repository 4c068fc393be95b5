"""A client of any TF Serving: `predict`, `recommend`, and `guim recommend` on top of them."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from rich.console import Console
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from guim_tf import schema
from serving import display, tensors, tls
from serving.histories import (
    Catalogue,
    History,
    HistoryError,
    Item,
    load_histories,
    parse_time,
)
from serving.text_config import TextConfigError

DEFAULT_SERVER = "127.0.0.1:8500"
RETRIEVAL, RECOMMEND = "retrieval", "recommend"


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """One item of an answer; `interest` is the number of the user vector that fetched it."""

    item_id: str
    score: float
    interest: int


def connect(server: str, credentials: grpc.ChannelCredentials | None = None) -> grpc.Channel:
    """A channel to `host:port`; answers of any size are accepted.

    Args:
      server: the address.
      credentials: of `tls.channel_credentials`; None for a server without encryption.
    """
    options = (("grpc.max_receive_message_length", -1),)
    if credentials is None:
        return grpc.insecure_channel(server, options=options)
    return grpc.secure_channel(server, credentials, options=options)


def predict(
    channel: grpc.Channel,
    model: str,
    signature: str,
    inputs: Mapping[str, Any],
    *,
    version: int | None = None,
    timeout: float = 30.0,
) -> dict[str, np.ndarray]:
    """Runs a signature of a served model.

    Args:
      channel: from `connect`.
      model: its name.
      signature: one of its signatures.
      inputs: arrays, lists or scalars by input name; dtypes as the signature has them.
      version: None for the latest.
      timeout: seconds.

    Returns:
      Arrays by output name; strings as `bytes` in an object array.

    Raises:
      grpc.RpcError: with the server's status.
      serving.tensors.TensorError: an input that can't be sent.
    """
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(tensors.to_proto(values, name=name))
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    response = stub.Predict(request, timeout=timeout)
    return {name: tensors.to_array(proto, name=name) for name, proto in response.outputs.items()}


def signature_inputs(
    channel: grpc.Channel,
    model: str,
    signature: str,
    *,
    version: int | None = None,
    timeout: float = 30.0,
) -> set[str]:
    """Names of what a served signature takes; none for a signature that the model lacks.

    Raises:
      grpc.RpcError: with the server's status.
    """
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = model
    if version is not None:
        request.model_spec.version.value = version
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    response = stub.GetModelMetadata(request, timeout=timeout)
    found = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(found)
    return set(found.signature_def[signature].inputs)


def recommend_inputs(
    histories: Sequence[History], *, k: int, exclude_seen: bool
) -> dict[str, np.ndarray]:
    """Inputs of the `recommend` signature: `[B, N]` events, padded with empty ids at the end.

    `action` is among them; only models that use action types take it.
    """
    length = max((len(h.events) for h in histories), default=0) or 1
    shape = (len(histories), length)
    ids, categories, titles, actions = (np.full(shape, "", object) for _ in range(4))
    timestamps = np.zeros(shape, np.int64)
    for row, history in enumerate(histories):
        for column, event in enumerate(history.events):
            ids[row, column] = event.item.item_id
            categories[row, column] = event.item.category_id
            titles[row, column] = event.item.title
            actions[row, column] = event.action
            timestamps[row, column] = event.timestamp
    return {
        "item_id": ids,
        "category_id": categories,
        "title": titles,
        "action": actions,
        "timestamp": timestamps,
        "as_of": np.array([h.as_of for h in histories], np.int64),
        "k": np.array(k, np.int32),
        "exclude_seen": np.array(exclude_seen),
    }


def recommend(
    channel: grpc.Channel,
    histories: Sequence[History],
    *,
    k: int = 10,
    exclude_seen: bool = False,
    model: str = RETRIEVAL,
    version: int | None = None,
    timeout: float = 30.0,
) -> list[list[Recommendation]]:
    """The k best items for each user, best first; one request for all of them.

    Another request asks the server before whether its model takes action types.

    Raises:
      grpc.RpcError: with the server's status.
    """
    inputs = recommend_inputs(histories, k=k, exclude_seen=exclude_seen)
    asked = signature_inputs(channel, model, RECOMMEND, version=version, timeout=timeout)
    if "action" not in asked:
        del inputs["action"]
    outputs = predict(channel, model, RECOMMEND, inputs, version=version, timeout=timeout)
    return [
        [
            Recommendation(item_id.decode("utf-8"), float(score), int(interest))
            for item_id, score, interest in zip(*rows, strict=True)
            if item_id  # an empty id fills up a list that has fewer than k items
        ]
        for rows in zip(outputs["item_id"], outputs["score"], outputs["interest"], strict=True)
    ]


def explain(error: grpc.RpcError, *, server: str) -> str:
    """What a status means for someone at a terminal, and what to do about it."""
    code, details = error.code(), error.details()
    if code == grpc.StatusCode.UNAVAILABLE:
        return (
            f"no server answers at {server} ({details}). "
            "Start one with `guim serve`, or name another with --server."
        )
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"the server at {server} did not answer in time. Give it longer with --timeout."
    if code == grpc.StatusCode.NOT_FOUND:
        return (
            f"the server at {server} does not serve what is needed: {details}. "
            "Write it with `guim export` and `guim index`, and start `guim serve` again."
        )
    return f"the server at {server} answers {code.name}: {details}"


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the server is and how to talk to it, of every command that asks one."""
    parser.add_argument("--server", default=DEFAULT_SERVER, metavar="HOST:PORT")
    parser.add_argument("--model", default=RETRIEVAL, help="retrieval model (%(default)s)")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds (%(default)s)")
    parser.add_argument(
        "--tls-ca", metavar="PEM", help="authority of the server's certificate: encrypts"
    )
    parser.add_argument("--tls-cert", metavar="PEM", help="this client's, where one is asked for")
    parser.add_argument("--tls-key", metavar="PEM", help="of --tls-cert")


def credentials(arguments: argparse.Namespace) -> grpc.ChannelCredentials | None:
    """What `connect` needs, of `add_server_arguments`.

    Raises:
      TextConfigError: files that go together are not all given, or can't be read.
    """
    if arguments.tls_ca is None and not (arguments.tls_cert or arguments.tls_key):
        return None
    if arguments.tls_ca is None or (arguments.tls_cert is None) != (arguments.tls_key is None):
        raise TextConfigError("--tls-cert and --tls-key go together, and with --tls-ca.")
    return tls.channel_credentials(
        ca=arguments.tls_ca, cert=arguments.tls_cert, key=arguments.tls_key
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="guim recommend",
        description="Recommendations for users of a data set, from a running server.",
        epilog="examples:\n"
        "  guim recommend --dataset work/dataset --user 17850.0 --exclude-seen\n"
        "  guim recommend --dataset work/dataset --random 5 --json --server 127.0.0.1:8500\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", required=True, metavar="DIR", help="of guim build-dataset")
    parser.add_argument(
        "--user", nargs="+", action="extend", default=[], metavar="ID", help="user ids (repeatable)"
    )
    parser.add_argument("--random", type=int, default=0, metavar="N", help="and N users by chance")
    parser.add_argument("--seed", type=int, default=0, help="of that chance (%(default)s)")
    parser.add_argument("--k", type=int, default=10, help="items a user (%(default)s)")
    parser.add_argument(
        "--as-of",
        type=parse_time,
        metavar="TIME",
        help="ISO (UTC) or seconds; only events before it count (the data set's own moment)",
    )
    parser.add_argument(
        "--max-length",
        type=int,
        default=512,
        help="most recent events sent; the model keeps what its window holds (%(default)s)",
    )
    parser.add_argument("--exclude-seen", action="store_true", help="nothing bought before")
    add_server_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON line a user")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Prints what each user bought last and what the server recommends.

    Returns:
      0; 2 with one line on stderr for a user or data set that is not there; 1 for a server that
      does not answer.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if not arguments.user and arguments.random < 1:
        parser.error("say which users: --user ID, or --random N")
    if min(arguments.k, arguments.max_length) < 1 or arguments.random < 0:
        parser.error("--k and --max-length must be 1 or more, --random 0 or more")
    try:
        histories = load_histories(
            dataset=arguments.dataset,
            user_ids=arguments.user,
            random=arguments.random,
            seed=arguments.seed,
            as_of=arguments.as_of,
            max_length=arguments.max_length,
        )
        catalogue = Catalogue(arguments.dataset)
        with connect(arguments.server, credentials(arguments)) as channel:
            answers = recommend(
                channel,
                histories,
                k=arguments.k,
                exclude_seen=arguments.exclude_seen,
                model=arguments.model,
                timeout=arguments.timeout,
            )
    except (HistoryError, schema.SchemaError, TextConfigError) as e:
        print(f"guim recommend: {e}", file=sys.stderr)
        return 2
    except grpc.RpcError as e:
        print(f"guim recommend: {explain(e, server=arguments.server)}", file=sys.stderr)
        return 1
    items = catalogue.by_id(r.item_id for answer in answers for r in answer)
    console = Console()
    for history, answer in zip(histories, answers, strict=True):
        if arguments.json:
            print(json.dumps(as_json(history, answer, items), ensure_ascii=False), flush=True)
        else:
            display.show(console, history, answer, items)
    return 0


def as_json(
    history: History, answer: Sequence[Recommendation], items: Mapping[str, Item]
) -> dict[str, Any]:
    """One user's line of `--json`."""
    return {
        "user_id": history.user_id,
        "as_of": history.as_of,
        "events": len(history.events),
        "recommendations": [
            {
                "rank": rank,
                "item_id": r.item_id,
                "title": items[r.item_id].title if r.item_id in items else None,
                "score": r.score,
                "interest": r.interest,
            }
            for rank, r in enumerate(answer, 1)
        ],
    }


if __name__ == "__main__":
    sys.exit(main())

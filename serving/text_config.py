"""TF Serving's configuration files: text protos, read by the server's own field names.

`ModelServerConfig` is among the published stubs. `BatchingParameters` and `SSLConfig` are not:
their fields are given here by their source, `servables/tensorflow/session_bundle_config.proto` and
`config/ssl_config.proto` of tensorflow/serving.
"""

import pathlib
from typing import TypeVar

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message,
    message_factory,
    text_format,
    wrappers_pb2,
)
from tensorflow_serving.config import model_server_config_pb2

_Field = descriptor_pb2.FieldDescriptorProto
_INT64 = ".google.protobuf.Int64Value"
_STRING = ".google.protobuf.StringValue"
_ONE, _MANY = _Field.LABEL_OPTIONAL, _Field.LABEL_REPEATED
_MESSAGES: dict[str, dict[str, tuple[int, int, int, str | None]]] = {
    "BatchingParameters": {
        "max_batch_size": (1, _ONE, _Field.TYPE_MESSAGE, _INT64),
        "batch_timeout_micros": (2, _ONE, _Field.TYPE_MESSAGE, _INT64),
        "max_enqueued_batches": (3, _ONE, _Field.TYPE_MESSAGE, _INT64),
        "num_batch_threads": (4, _ONE, _Field.TYPE_MESSAGE, _INT64),
        "thread_pool_name": (5, _ONE, _Field.TYPE_MESSAGE, _STRING),
        "allowed_batch_sizes": (6, _MANY, _Field.TYPE_INT64, None),
        "pad_variable_length_inputs": (7, _ONE, _Field.TYPE_BOOL, None),
    },
    "SSLConfig": {
        "server_key": (1, _ONE, _Field.TYPE_STRING, None),
        "server_cert": (2, _ONE, _Field.TYPE_STRING, None),
        "custom_ca": (3, _ONE, _Field.TYPE_STRING, None),
        "client_verify": (4, _ONE, _Field.TYPE_BOOL, None),
    },
}

Message = TypeVar("Message", bound=message.Message)


class TextConfigError(ValueError):
    """A configuration file is missing or not what the server reads; the message names it."""


def _define() -> dict[str, type[message.Message]]:
    file = descriptor_pb2.FileDescriptorProto(
        name="guim/serving_config.proto",
        package="guim.serving",
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
    )
    for name, fields in _MESSAGES.items():
        described = file.message_type.add(name=name)
        for field, (number, label, kind, type_name) in fields.items():
            described.field.add(
                name=field, number=number, label=label, type=kind, type_name=type_name
            )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"guim.serving.{name}"))
        for name in _MESSAGES
    }


_CLASSES = _define()


def read_model_config(path: str | pathlib.Path) -> model_server_config_pb2.ModelServerConfig:
    """`tensorflow.serving.ModelServerConfig`."""
    return _parse(path, model_server_config_pb2.ModelServerConfig())


def read_batching_parameters(path: str | pathlib.Path) -> message.Message:
    """`tensorflow.serving.BatchingParameters`."""
    return _parse(path, _CLASSES["BatchingParameters"]())


def read_ssl_config(path: str | pathlib.Path) -> message.Message:
    """`tensorflow.serving.SSLConfig`: keys and certificates are in the file itself, as PEM."""
    return _parse(path, _CLASSES["SSLConfig"]())


def _parse(path: str | pathlib.Path, empty: Message) -> Message:
    """The message of a text file.

    Raises:
      TextConfigError: no such file, or not a message of that type.
    """
    name = empty.DESCRIPTOR.name
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise TextConfigError(f"{path} can't be read: {e}. It should be a text {name}.") from e
    try:
        return text_format.Parse(text, empty)
    except text_format.ParseError as e:
        raise TextConfigError(
            f"{path} is no {name} in protobuf's text format: {e}. "
            f"Fields that are read: {', '.join(empty.DESCRIPTOR.fields_by_name)}."
        ) from e

"""A served address whose errors can be shown to people."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import numpy as np

from serving import client


class AnswerError(ValueError):
    """A server does not answer, or does not have what the page needs; says what to do."""


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A server of models; `address` is for messages."""

    address: str
    channel: grpc.Channel

    @classmethod
    def connect(
        cls, address: str, credentials: grpc.ChannelCredentials | None = None
    ) -> "Endpoint":
        return cls(address, client.connect(address, credentials))

    def predict(
        self, model: str, signature: str, inputs: Mapping[str, Any], *, timeout: float
    ) -> dict[str, np.ndarray]:
        with self.readable():
            return client.predict(self.channel, model, signature, inputs, timeout=timeout)

    def inputs_of(self, model: str, signature: str, *, timeout: float) -> set[str]:
        with self.readable():
            return client.signature_inputs(self.channel, model, signature, timeout=timeout)

    @contextlib.contextmanager
    def readable(self) -> Iterator[None]:
        """Statuses become `AnswerError`."""
        try:
            yield
        except grpc.RpcError as e:
            raise AnswerError(client.explain(e, server=self.address)) from e

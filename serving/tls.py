"""Encryption of both ports, from TF Serving's `SSLConfig`, and of clients."""

import pathlib
import ssl
import tempfile
from typing import Any

import grpc

from serving.text_config import TextConfigError


def server_credentials(config: Any) -> grpc.ServerCredentials:
    """For gRPC. With `client_verify` a client needs a certificate of `custom_ca`.

    Raises:
      TextConfigError: a key, a certificate or the authority is not there.
    """
    _require(config)
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )


def server_context(config: Any) -> ssl.SSLContext:
    """The same for HTTP.

    Raises:
      TextConfigError: as `server_credentials`, or what is given is no key or certificate.
    """
    _require(config)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        with tempfile.TemporaryDirectory() as folder:  # the ssl module reads files alone
            file = pathlib.Path(folder, "server.pem")
            file.touch(mode=0o600)
            file.write_text(f"{config.server_key}\n{config.server_cert}", encoding="ascii")
            context.load_cert_chain(file)
        if config.client_verify:
            context.load_verify_locations(cadata=config.custom_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (ssl.SSLError, ValueError) as e:
        raise TextConfigError(
            f"The SSLConfig's key and certificates can't be used: {e}. They are PEM blocks, and "
            "the key belongs to the certificate."
        ) from e
    return context


def _require(config: Any) -> None:
    wanted = ["server_key", "server_cert", *(["custom_ca"] if config.client_verify else [])]
    missing = [field for field in wanted if not getattr(config, field)]
    if missing:
        raise TextConfigError(f"The SSLConfig lacks {', '.join(missing)}: PEM text, not paths.")


def channel_credentials(
    *,
    ca: str | pathlib.Path,
    cert: str | pathlib.Path | None = None,
    key: str | pathlib.Path | None = None,
) -> grpc.ChannelCredentials:
    """For a client.

    Args:
      ca: PEM file of the authority that signed the server's certificate.
      cert, key: PEM files of the client, where the server asks for them.

    Raises:
      TextConfigError: a file can't be read.
    """
    try:
        return grpc.ssl_channel_credentials(
            *(None if p is None else pathlib.Path(p).read_bytes() for p in (ca, key, cert))
        )
    except OSError as e:
        raise TextConfigError(f"{e.filename} can't be read: {e.strerror}.") from e

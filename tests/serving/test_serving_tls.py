"""Encryption, with certificates made on the spot."""

import contextlib
import ssl
import urllib.error
import urllib.request

import grpc
import pytest
import trustme
from serving_testing import make_request, start
from tensorflow_serving.apis import prediction_service_pb2_grpc

from serving import client, text_config, tls

TIMEOUT = 10


class Party:
    """An authority and a certificate of it, as files."""

    def __init__(self, folder, *, name="localhost"):
        folder.mkdir()
        self.authority = trustme.CA()
        self.certificate = self.authority.issue_cert(name, "127.0.0.1")
        self.ca, self.cert, self.key = folder / "ca", folder / "cert", folder / "key"
        self.authority.cert_pem.write_to_path(self.ca)
        self.certificate.cert_chain_pems[0].write_to_path(self.cert)
        self.certificate.private_key_pem.write_to_path(self.key)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Party(tmp_path_factory.mktemp("tls") / "shop")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Party(tmp_path_factory.mktemp("tls") / "stranger")


def ssl_config(folder, party, *, verify):
    """TF Serving's file, as `guim serve --ssl-config-file` reads it."""
    quoted = {
        name: path.read_text().replace("\n", "\\n")
        for name, path in {"key": party.key, "cert": party.cert, "ca": party.ca}.items()
    }
    file = folder / "ssl.config"
    file.write_text(
        f'server_key: "{quoted["key"]}"\nserver_cert: "{quoted["cert"]}"\n'
        + (f'custom_ca: "{quoted["ca"]}"\nclient_verify: true\n' if verify else "")
    )
    return text_config.read_ssl_config(file)


@contextlib.contextmanager
def serving(models, config):
    handle = start(models, "item_encoder", rest_port=0, ssl_config=config)
    try:
        yield handle
    finally:
        handle.stop()


def encode(channel):
    with channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        return stub.Predict(make_request("item_encoder", item_id=["mug"]), TIMEOUT)


def refused(channel):
    with pytest.raises(grpc.RpcError) as error:
        encode(channel)
    return error.value.code() == grpc.StatusCode.UNAVAILABLE


def test_only_who_trusts_the_servers_certificate_talks_to_it(models, shop, stranger, tmp_path):
    with serving(models, ssl_config(tmp_path, shop, verify=False)) as handle:
        trusting = client.connect(handle.address, tls.channel_credentials(ca=shop.ca))
        assert encode(trusting).model_spec.version.value == 12

        assert refused(client.connect(handle.address))  # a plain client
        other = tls.channel_credentials(ca=stranger.ca)
        assert refused(client.connect(handle.address, other))

        url = f"https://{handle.rest_address}/v1/models/item_encoder"
        with urllib.request.urlopen(
            url, timeout=TIMEOUT, context=ssl.create_default_context(cafile=shop.ca)
        ) as response:
            assert response.status == 200
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            urllib.request.urlopen(url, timeout=TIMEOUT)
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            urllib.request.urlopen(url.replace("https", "http"), timeout=TIMEOUT)


def test_client_certificates(models, shop, stranger, tmp_path):
    with serving(models, ssl_config(tmp_path, shop, verify=True)) as handle:

        def with_certificate(party):
            credentials = tls.channel_credentials(ca=shop.ca, cert=party.cert, key=party.key)
            return client.connect(handle.address, credentials)

        assert encode(with_certificate(shop)).model_spec.version.value == 12
        assert refused(with_certificate(stranger))
        assert refused(client.connect(handle.address, tls.channel_credentials(ca=shop.ca)))

        url = f"https://{handle.rest_address}/v1/models/item_encoder"
        context = ssl.create_default_context(cafile=shop.ca)
        with pytest.raises((urllib.error.URLError, ssl.SSLError, ConnectionError)):
            urllib.request.urlopen(url, timeout=TIMEOUT, context=context)
        context.load_cert_chain(shop.cert, shop.key)
        with urllib.request.urlopen(url, timeout=TIMEOUT, context=context) as response:
            assert response.status == 200


class TestConfiguration:
    @pytest.mark.parametrize(
        ("text", "missing"),
        [
            ("", "server_key, server_cert"),
            ('server_key: "k"', "server_cert"),
            ('server_key: "k" server_cert: "c" client_verify: true', "custom_ca"),
        ],
    )
    def test_what_is_missing_is_named(self, tmp_path, text, missing):
        file = tmp_path / "ssl.config"
        file.write_text(text)
        with pytest.raises(text_config.TextConfigError, match=f"lacks {missing}"):
            tls.server_credentials(text_config.read_ssl_config(file))

    def test_what_is_no_key_is_refused_before_models_are_loaded(self, models, tmp_path, caplog):
        file = tmp_path / "ssl.config"
        file.write_text('server_key: "/etc/key.pem" server_cert: "/etc/cert.pem"')
        with (
            caplog.at_level("INFO", "serving"),
            pytest.raises(text_config.TextConfigError, match="can't be used.*PEM"),
        ):
            start(models, ssl_config=text_config.read_ssl_config(file))
        assert not caplog.records

    def test_a_clients_missing_file_is_named(self, tmp_path):
        with pytest.raises(text_config.TextConfigError, match="absent can't be read"):
            tls.channel_credentials(ca=tmp_path / "absent")

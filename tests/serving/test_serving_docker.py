"""The configuration for stock TF Serving, read by the server's rules."""

import pathlib
import re

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from tensorflow_serving.config import model_server_config_pb2

from serving import text_config

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "serving/docker"
Field = descriptor_pb2.FieldDescriptorProto

# Messages that are not in the published stubs: their fields, by the server's source.
MESSAGES = {
    "PrometheusConfig": {
        "enable": (1, Field.TYPE_BOOL, None),
        "path": (2, Field.TYPE_STRING, None),
    },
    "MonitoringConfig": {
        "prometheus_config": (1, Field.TYPE_MESSAGE, ".server.PrometheusConfig"),
    },
}


def parse(name: str, message_name: str):
    file = descriptor_pb2.FileDescriptorProto(
        name="server.proto", package="server", syntax="proto3"
    )
    for message, fields in MESSAGES.items():
        described = file.message_type.add(name=message)
        for field, (number, kind, type_name) in fields.items():
            described.field.add(name=field, number=number, type=kind, type_name=type_name, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName(f"server.{message_name}")
    message = message_factory.GetMessageClass(found)()
    return text_format.Parse((FOLDER / name).read_text(), message)


@pytest.mark.parametrize(
    ("file", "folders"),
    [
        ("encoders.config", {"user_encoder": "user_encoder", "item_encoder": "item_encoder"}),
        ("retrieval-scann.config", {"retrieval": "retrieval"}),
        ("retrieval-exact.config", {"retrieval": "retrieval_exact"}),
    ],
)
def test_model_configuration(file, folders):
    config = text_format.Parse(
        (FOLDER / file).read_text(), model_server_config_pb2.ModelServerConfig()
    )
    models = config.model_config_list.config

    assert {m.name: m.base_path for m in models} == {
        name: f"/models/{folder}" for name, folder in folders.items()
    }
    for model in models:
        assert model.model_platform == "tensorflow"
        assert model.model_version_policy.latest.num_versions == 1


def test_batching_configuration():
    batching = text_config.read_batching_parameters(FOLDER / "batching.config")

    assert batching.max_batch_size.value > 1
    assert batching.max_enqueued_batches.value > 0  # the queue is bounded
    assert not batching.pad_variable_length_inputs


def test_monitoring_configuration():
    monitoring = parse("monitoring.config", "MonitoringConfig")

    assert monitoring.prometheus_config.enable
    assert monitoring.prometheus_config.path.startswith("/")


class TestCompose:
    @pytest.fixture(scope="class")
    def services(self):
        yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
        return yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]

    def test_each_profile_has_the_encoders_and_one_index(self, services):
        def names(profile):
            return {name for name, service in services.items() if profile in service["profiles"]}

        assert names("exact") == {"encoders", "retrieval-exact"}
        assert names("scann") == {"encoders", "retrieval-scann"}

    def test_images(self, services):
        defaults = {name: re.search(r":-(.*):", s["image"])[1] for name, s in services.items()}
        assert defaults == {
            "encoders": "tensorflow/serving",
            "retrieval-exact": "tensorflow/serving",
            "retrieval-scann": "google/tf-serving-scann",
        }

    def test_files_that_are_named_exist(self, services):
        named = [
            argument.partition("=/config/")[2]
            for service in services.values()
            for argument in service["command"]
            if "=/config/" in argument
        ]
        assert len(named) == 7
        assert all((FOLDER / name).is_file() for name in named)

    def test_ports_are_on_loopback_and_free_of_each_other(self, services):
        for profile in ("exact", "scann"):
            ports = [p for s in services.values() if profile in s["profiles"] for p in s["ports"]]
            assert all(port.startswith("127.0.0.1:") for port in ports)
            assert len({port.split(":")[1] for port in ports}) == len(ports) == 4

    def test_the_index_is_not_batched(self, services):
        """k and exclude_seen are scalars, which batching refuses."""
        batched = {n for n, s in services.items() if "--enable_batching=true" in s["command"]}
        assert batched == {"encoders"}

"""TF Serving's configuration files: what is read, and what is refused."""

import pathlib

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving import text_config
from serving.batching_parameters import BatchingParameters
from serving.model_config import All, Latest, ModelConfig, ModelConfigError, Specific, from_proto


def configs(text: str):
    return from_proto(text_format.Parse(text, model_server_config_pb2.ModelServerConfig()))


def entry(name="m", path="/models/m", platform="tensorflow", more=""):
    return f'config {{ name: "{name}" base_path: "{path}" model_platform: "{platform}" {more} }}'


class TestModels:
    @pytest.mark.parametrize(
        ("policy", "expected"),
        [
            ("", Latest(1)),
            ("model_version_policy { latest { num_versions: 2 } }", Latest(2)),
            ("model_version_policy { all {} }", All()),
            ("model_version_policy { specific { versions: 3 versions: 7 } }", Specific((3, 7))),
        ],
    )
    def test_policies(self, policy, expected):
        (model,) = configs(f"model_config_list {{ {entry(more=policy)} }}")

        assert model == ModelConfig("m", pathlib.Path("/models/m"), expected)

    @pytest.mark.parametrize(
        ("policy", "candidates", "enough"),
        [
            (Latest(), (7, 3, 1), 1),
            (Latest(2), (7, 3, 1), 2),
            (All(), (7, 3, 1), None),
            (Specific((1, 9)), (1,), None),
        ],
    )
    def test_what_a_policy_takes_of_what_there_is(self, policy, candidates, enough):
        config = ModelConfig("m", pathlib.Path("/m"), policy)
        assert (config.candidates((1, 3, 7)), config.enough) == (candidates, enough)

    def test_labels(self):
        (model,) = configs(
            "model_config_list {" + entry(more='version_labels { key: "stable" value: 3 }') + "}"
        )
        assert model.labels == {"stable": 3}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "Only ModelConfigList is supported"),
            ("custom_model_config {}", "Only ModelConfigList is supported"),
            (f"model_config_list {{ {entry(name='')} }}", "has no name"),
            (f"model_config_list {{ {entry(path='models/m')} }}", "absolute path"),
            (f"model_config_list {{ {entry(platform='torch')} }}", "'torch', expected 'tensorflow"),
            (f"model_config_list {{ {entry()} {entry()} }}", "m multiple times"),
            (
                f"model_config_list {{ {entry(more='model_version_policy { specific {} }')} }}",
                "names none",
            ),
        ],
    )
    def test_what_can_not_be_served_is_refused(self, text, message):
        with pytest.raises(ModelConfigError, match=message):
            configs(text)


class TestFiles:
    def test_an_absent_file(self, tmp_path):
        with pytest.raises(text_config.TextConfigError, match=r"absent can't be read.*SSLConfig"):
            text_config.read_ssl_config(tmp_path / "absent")

    def test_an_unknown_field_is_named_beside_those_there_are(self, tmp_path):
        file = tmp_path / "batching"
        file.write_text("max_batch: 3")
        with pytest.raises(text_config.TextConfigError, match=r'"max_batch".*max_batch_size, '):
            text_config.read_batching_parameters(file)


class TestBatchingParameters:
    def read(self, tmp_path, text):
        file = tmp_path / "batching"
        file.write_text(text)
        return BatchingParameters.from_proto(text_config.read_batching_parameters(file))

    def test_what_is_left_out_is_as_by_default(self, tmp_path):
        parameters = self.read(
            tmp_path,
            "max_batch_size { value: 8 } batch_timeout_micros { value: 0 } "
            'thread_pool_name { value: "x" } allowed_batch_sizes: 4 allowed_batch_sizes: 8 '
            "pad_variable_length_inputs: true",
        )
        assert parameters == BatchingParameters(
            max_batch_size=8, allowed_batch_sizes=(4, 8), pad_variable_length_inputs=True
        )

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("num_batch_threads { value: 0 }", "num_batch_threads is 0, expected 1"),
            ("batch_timeout_micros { value: -1 }", "batch_timeout_micros is -1, expected 0"),
            ("allowed_batch_sizes: 4", r"\[4\], expected increasing .* max_batch_size = 16"),
            ("allowed_batch_sizes: 16 allowed_batch_sizes: 4", "expected increasing"),
        ],
    )
    def test_impossible_numbers(self, tmp_path, text, message):
        with pytest.raises(ValueError, match=message):
            self.read(tmp_path, text)

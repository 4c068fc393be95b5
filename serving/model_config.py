"""What to serve: models, where they lie, which versions. TF Serving's ModelServerConfig."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from tensorflow_serving.config import model_server_config_pb2

PLATFORM = "tensorflow"


class ModelConfigError(ValueError):
    """A configuration that can't be served; the message names the model."""


@dataclasses.dataclass(frozen=True)
class Latest:
    """The highest versions."""

    versions: int = 1


@dataclasses.dataclass(frozen=True)
class All:
    """Every version."""


@dataclasses.dataclass(frozen=True)
class Specific:
    """These versions, whichever others there are."""

    versions: tuple[int, ...]


Policy: TypeAlias = Latest | All | Specific


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A model to serve.

    Attributes:
      name: what clients call it.
      base_path: folder of its versions.
      policy: which of these are served.
      labels: names that clients may use in the place of a version.
    """

    name: str
    base_path: pathlib.Path
    policy: Policy = Latest()
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def candidates(self, versions: Sequence[int]) -> tuple[int, ...]:
        """Which of the versions on disk may be served, the highest first."""
        highest_first = sorted(versions, reverse=True)
        if isinstance(self.policy, Specific):
            return tuple(v for v in highest_first if v in self.policy.versions)
        return tuple(highest_first)

    @property
    def enough(self) -> int | None:
        """How many of the candidates are served; None for all. Where one can't be loaded the next
        lower one serves in its place."""
        return self.policy.versions if isinstance(self.policy, Latest) else None


def from_proto(config: model_server_config_pb2.ModelServerConfig) -> tuple[ModelConfig, ...]:
    """The models of a configuration, checked as a whole.

    Raises:
      ModelConfigError: a kind of configuration, platform or policy that is not served here, a name
        given twice, a path that is not absolute.
    """
    if config.WhichOneof("config") != "model_config_list":
        raise ModelConfigError(
            "ServerModelConfig type not supported. Only ModelConfigList is supported."
        )
    models = tuple(_model(entry) for entry in config.model_config_list.config)
    names = [model.name for model in models]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ModelConfigError(
            f"Illegal to list model {twice[0]} multiple times in config list. Name each once."
        )
    return models


def _model(entry: model_server_config_pb2.ModelConfig) -> ModelConfig:
    if not entry.name:
        raise ModelConfigError(f"A model at {entry.base_path!r} has no name. Give it one.")
    path = pathlib.Path(entry.base_path)
    if not path.is_absolute():
        raise ModelConfigError(
            f"Expected model {entry.name} to have an absolute path as base_path, got "
            f"{entry.base_path!r}."
        )
    if entry.model_platform != PLATFORM:
        raise ModelConfigError(
            f"Model {entry.name} has model_platform {entry.model_platform!r}, expected "
            f"{PLATFORM!r}."
        )
    return ModelConfig(entry.name, path, _policy(entry), dict(entry.version_labels))


def _policy(entry: model_server_config_pb2.ModelConfig) -> Policy:
    policy = entry.model_version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            return All()
        case "specific":
            if not policy.specific.versions:
                raise ModelConfigError(
                    f"Model {entry.name} asks for specific versions and names none."
                )
            return Specific(tuple(policy.specific.versions))
        case _:
            return Latest(policy.latest.num_versions or 1)

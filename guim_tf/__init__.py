"""GUIM: general user and item embeddings with a mixture of representation.

Importing this package is cheap (standard library only) and makes `tf.keras` mean Keras 2, which
TensorFlow Recommenders needs. Public names are loaded on first use: `guim_tf.GUIM`,
`guim_tf.train`, ...
"""

import importlib
import os
import sys
from typing import Any

from guim_tf.version import __version__

_PUBLIC = {
    "Config": "guim_tf.config",
    "Schema": "guim_tf.schema",
    "GUIM": "guim_tf.model",
    "load_dataset": "guim_tf.data",
    "train": "guim_tf.training",
    "export": "guim_tf.export",
    "build_index": "guim_tf.retrieval",
    "evaluate": "guim_tf.evaluation",
}

__all__ = ["__version__", *_PUBLIC]


def _select_keras_2() -> None:
    """Selects Keras 2 while that still helps, and says how to when it no longer does."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    tensorflow = sys.modules.get("tensorflow")
    keras = getattr(tensorflow, "keras", None) if tensorflow is not None else None
    if keras is not None and getattr(keras, "__version__", "2").startswith("3."):
        raise ImportError(
            "guim_tf needs Keras 2 behind tf.keras, but tf.keras is already Keras "
            f"{keras.__version__} in this process. Restart it and either import guim_tf before "
            "tf.keras is first used, or set the environment variable TF_USE_LEGACY_KERAS=1."
        )


_select_keras_2()


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'guim_tf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

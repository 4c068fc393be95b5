"""The one door to Keras: everything in this package says `from guim_tf.keras_compat import keras`.

TensorFlow Recommenders 0.7 refuses Keras 3, so the package stands on Keras 2 (`tf_keras`).
"""

import tf_keras as keras

PACKAGE = "guim_tf"


def register(cls: type) -> type:
    """Registers a Keras class under this package's name, so that configurations load again."""
    return keras.utils.register_keras_serializable(package=PACKAGE)(cls)


__all__ = ["keras", "register", "PACKAGE"]

"""Which versions of which models there are, and in which state: the table behind the services.

The table is replaced as a whole, never changed in place, so a request reads it without a lock and
keeps the servable it found for as long as it runs.
"""

import dataclasses
import logging
import pathlib
import threading

import grpc
import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2

from serving import servable as servable_lib

_log = logging.getLogger(__name__)

LOADING = get_model_status_pb2.ModelVersionStatus.LOADING
AVAILABLE = get_model_status_pb2.ModelVersionStatus.AVAILABLE
END = get_model_status_pb2.ModelVersionStatus.END


@dataclasses.dataclass(frozen=True)
class VersionState:
    """A version in TF Serving's terms.

    Attributes:
      name, version: which one.
      state: LOADING, AVAILABLE or END.
      servable: the loaded model; only when AVAILABLE.
      code: why it ended, as a number of `tensorflow.error.Code`; 0 where nothing went wrong.
      details: the same in words.
    """

    name: str
    version: int
    state: int
    servable: servable_lib.Servable | None = None
    code: int = 0
    details: str = ""


class ServableManager:
    """Maps (name, version) to servables."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: dict[tuple[str, int], VersionState] = {}

    def load(self, *, name: str, version: int, path: str | pathlib.Path) -> VersionState:
        """Loads a version; one that can't be loaded ends with an error status, it doesn't raise."""
        self._put(VersionState(name, version, LOADING))
        try:
            servable = servable_lib.load(name=name, version=version, path=path)
        except Exception as e:  # whatever is wrong with one model, the others go on serving
            _log.error("%s version %d can't be served: %s", name, version, e)
            return self._put(VersionState(name, version, END, code=_code(e), details=str(e)))
        return self._put(VersionState(name, version, AVAILABLE, servable))

    def _put(self, state: VersionState) -> VersionState:
        with self._lock:
            self._states = {**self._states, (state.name, state.version): state}
        return state

    def get(self, name: str, version: int | None = None) -> servable_lib.Servable:
        """The servable of a request; the latest available version where none is asked for.

        Raises:
          servable.RequestError: NOT_FOUND.
        """
        for state in reversed(self.states(name)):
            if state.servable is not None and version in (None, state.version):
                return state.servable
        wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
        raise servable_lib.RequestError(
            grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {wanted}"
        )

    def states(self, name: str | None = None) -> tuple[VersionState, ...]:
        """Every known version, of one model or of all, by name and ascending version."""
        return tuple(state for key, state in sorted(self._states.items()) if name in (None, key[0]))


def _code(error: Exception) -> int:
    if isinstance(error, tf.errors.OpError):
        return error.error_code
    if isinstance(error, servable_lib.RequestError):
        return error.code.value[0]
    if isinstance(error, FileNotFoundError):  # tf.saved_model.load, for missing variables or ops
        return tf.errors.NOT_FOUND
    if isinstance(error, ValueError):  # LoadError, SchemaError: the folder is not fit to serve
        return tf.errors.FAILED_PRECONDITION
    return tf.errors.UNKNOWN

"""Which versions of which models there are, in which state, and how one takes another's place.

A new version is loaded and warmed up beside the one that serves; only then does it take over, and
the old one goes when its last request is answered. A version that can't be loaded, or that clients
of the served one could not go on with, ends with a reason and changes nothing.

The table of states is replaced as a whole, never changed in place, so a request reads it without a
lock and keeps the servable it found for as long as it runs.
"""

import collections
import dataclasses
import gc
import logging
import pathlib
import threading
import time
import weakref
from collections.abc import Iterable, Sequence

import grpc
import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2

from serving import servable as servable_lib
from serving.metrics import Metrics
from serving.model_config import Latest, ModelConfig, Specific
from serving.versions import Listing, find_versions, list_files, lists_files, what_is_missing

_log = logging.getLogger(__name__)

START = get_model_status_pb2.ModelVersionStatus.START
LOADING = get_model_status_pb2.ModelVersionStatus.LOADING
AVAILABLE = get_model_status_pb2.ModelVersionStatus.AVAILABLE
UNLOADING = get_model_status_pb2.ModelVersionStatus.UNLOADING
END = get_model_status_pb2.ModelVersionStatus.END

_Key = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class VersionState:
    """A version in TF Serving's terms.

    Attributes:
      name, version: which one.
      state: START (seen, not whole yet), LOADING, AVAILABLE, UNLOADING (its last requests run) or
        END.
      servable: the loaded model; only when AVAILABLE.
      code: why it ended, as a number of `tensorflow.error.Code`; 0 where nothing went wrong.
      details: the same in words.
      listing: the files that could not be loaded; they are tried again once they change.
    """

    name: str
    version: int
    state: int
    servable: servable_lib.Servable | None = None
    code: int = 0
    details: str = ""
    listing: Listing = ()


class ServableManager:
    """Maps (name, version) to servables and keeps them as the configuration and the disk say.

    Args:
      metrics: where loads are counted.
      settle_seconds: how long a version without a manifest must have been left alone.
    """

    def __init__(
        self,
        *,
        metrics: Metrics | None = None,
        settle_seconds: float = 1.0,
    ) -> None:
        self._metrics = metrics or Metrics()
        self._settle_seconds = settle_seconds
        self._updating = threading.Lock()
        self._lock = threading.Lock()
        self._states: dict[_Key, VersionState] = {}
        self._configs: tuple[ModelConfig, ...] = ()
        self._labels: dict[tuple[str, str], int] = {}
        self._unreadable: set[str] = set()
        self._gone: collections.deque[_Key] = collections.deque()  # filled by finalizers
        self._garbage = False

    def configure(self, configs: Sequence[ModelConfig]) -> list[str]:
        """Serves these models from now on, and no others; loads what is new before it returns.

        Labels move when that is done, to versions that are available.

        Returns:
          As `update`.
        """
        with self._updating:
            self._configs = tuple(configs)
            # What could not be loaded before deserves another try.
            for state in self.states():
                if state.state == END and state.code:
                    self._drop(state)
            return self._update()

    def update(self) -> list[str]:
        """Looks at the disk: loads new versions, then retires those that are not wanted any more.

        Takes as long as loading takes; requests are answered meanwhile.

        Returns:
          What the configuration names and is not available: models, versions, labels.
        """
        with self._updating:
            return self._update()

    def unsettled(self) -> bool:
        """Whether a version was seen that may be whole at the next look."""
        return any(state.state == START for state in self.states())

    def get(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> servable_lib.Servable:
        """The servable of a request; the latest available version where none is asked for.

        Raises:
          servable.RequestError: NOT_FOUND; INVALID_ARGUMENT for a label that is not assigned.
        """
        if label is not None:
            version = self._labels.get((name, label))
            if version is None:
                raise servable_lib.invalid(f"Unrecognized servable version label: {label}")
        for state in reversed(self.states(name)):
            if state.servable is not None and version in (None, state.version):
                return state.servable
        wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
        raise servable_lib.RequestError(
            grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {wanted}"
        )

    def states(self, name: str | None = None) -> tuple[VersionState, ...]:
        """Every known version, of one model or of all, by name and ascending version."""
        self._note_gone()
        return tuple(state for key, state in sorted(self._states.items()) if name in (None, key[0]))

    def _update(self) -> list[str]:
        for config in self._configs:
            try:
                self._update_model(config)
            except Exception:  # one model's folder must not keep the others from their updates
                _log.exception("looking for versions of %s failed", config.name)
        names = {config.name for config in self._configs}
        for name in {state.name for state in self.states()} - names:
            self._retire(name, self._available(name))
            self._forget(name, set())
        self._label()
        if self._garbage:
            self._garbage = False
            gc.collect()  # loaded graphs are cycles of Python objects
        return self._missing()

    def _update_model(self, config: ModelConfig) -> None:
        try:
            found = find_versions(config.base_path)
        except OSError as e:
            self._complain(config.name, f"{config.base_path} can't be read: {e}")
            return
        if found:
            self._unreadable.discard(config.name)
        else:
            self._complain(
                config.name,
                f"No versions of servable {config.name} found under base path {config.base_path}",
            )
            if not config.base_path.exists():
                return  # a disk that is away for a moment takes no model with it
        chosen: set[int] = set()
        for version in config.candidates(found):
            if len(chosen) == config.enough:
                break
            if self._consider(config, version, found):
                chosen.add(version)
        if chosen or not found:
            self._retire(config.name, self._available(config.name) - chosen)
        self._forget(config.name, set(found))

    def _available(self, name: str) -> set[int]:
        return {state.version for state in self.states(name) if state.servable}

    def _label(self) -> None:
        """A label stays where it is until the version that it is to name is available."""
        self._labels = {
            (config.name, label): version
            for config in self._configs
            for label, wanted in config.labels.items()
            for version in (wanted, self._labels.get((config.name, label)))[::-1]
            if version is not None and version in self._available(config.name)
        }

    def _missing(self) -> list[str]:
        missing = []
        for config in self._configs:
            available = self._available(config.name)
            named = config.policy.versions if isinstance(config.policy, Specific) else ()
            if not available:
                missing.append(config.name)
            missing += [f"{config.name} version {v}" for v in named if v not in available]
            missing += [
                f"{config.name} label {label}"
                for label, version in config.labels.items()
                if version not in available
            ]
        return missing

    def _complain(self, name: str, text: str) -> None:
        """Logs once, until it is well again."""
        if name not in self._unreadable:
            self._unreadable.add(name)
            _log.warning(text)

    def _consider(self, config: ModelConfig, version: int, found: Sequence[int]) -> bool:
        """Loads a version unless it is loaded, is not whole yet, or failed as it lies there.

        Returns:
          Whether it can be served.
        """
        known = self._states.get((config.name, version))
        path = config.base_path / str(version)
        if known is not None and known.servable is not None and known.servable.path == path:
            return True
        try:
            listing = list_files(path)
            if known is not None and known.state == END and known.listing == listing:
                return False
            missing = what_is_missing(
                path,
                listing,
                expect_manifest=any(lists_files(config.base_path / str(v)) for v in found),
                settle_seconds=self._settle_seconds,
            )
        except OSError as e:
            listing, missing = (), f"{path} can't be read: {e}"
        if missing is not None:
            if known is None or known.details != missing:
                about = {"model": config.name, "version": version}
                _log.info("%s version %d waits: %s", config.name, version, missing, extra=about)
            self._put(VersionState(config.name, version, START, details=missing))
            return False
        below = [v for v in found if v < version]
        return self._load(config, version, path, listing, below=below)

    def _load(
        self,
        config: ModelConfig,
        version: int,
        path: pathlib.Path,
        listing: Listing,
        *,
        below: Sequence[int],
    ) -> bool:
        name = config.name
        if version not in self._available(name):  # the same version of another path serves on
            self._put(VersionState(name, version, LOADING))
        about = {"model": name, "version": version}
        _log.info("loading %s version %d from %s", name, version, path, extra=about)
        start = time.monotonic()
        try:
            servable = servable_lib.load(name=name, version=version, path=path)
            if isinstance(config.policy, Latest):
                self._require_same_contract(servable, below)
        except Exception as e:  # whatever is wrong with one model, the others go on serving
            _log.error("%s version %d can't be served: %s", name, version, e, extra=about)
            self._metrics.load(str(path.parent), status="failure", seconds=time.monotonic() - start)
            self._put(
                VersionState(name, version, END, code=_code(e), details=str(e), listing=listing)
            )
            return False
        seconds = time.monotonic() - start
        self._metrics.load(str(path.parent), status="success", seconds=seconds)
        weakref.finalize(servable, self._gone.append, (name, version))
        self._put(VersionState(name, version, AVAILABLE, servable))
        _log.info(
            "%s version %d is available after %.1f s, %d warm-up requests, signatures: %s",
            name,
            version,
            seconds,
            servable.warmup_requests,
            ", ".join(sorted(servable.functions)),
            extra=about,
        )
        return True

    def _require_same_contract(self, new: servable_lib.Servable, below: Sequence[int]) -> None:
        """A version takes over from another unasked: their clients must not notice. At a start it
        takes over from the one below it on disk.

        Raises:
          servable.LoadError: the new one answers otherwise.
        """
        base = new.path.parent
        served = [s.servable for s in self.states(new.name) if s.servable is not None]
        served = [old for old in served if old.path.parent == base and old.path.exists()]
        if served:
            version, old = served[-1].version, served[-1].signature_defs
        elif below:
            version = below[-1]
            try:
                old = servable_lib.read_signatures(base / str(version))
            except servable_lib.LoadError:  # nobody was served by that
                return
        else:
            return
        breaks = servable_lib.what_breaks(old, new.signature_defs)
        if breaks is not None:
            raise servable_lib.LoadError(
                f"{new.path} does not answer as version {version} before it: {breaks}. Serve it "
                "under another model name, name it in a specific version policy, or take version "
                f"{version} away."
            )

    def _retire(self, name: str, versions: Iterable[int]) -> None:
        for version in sorted(versions):
            about = {"model": name, "version": version}
            _log.info("%s version %d is unloaded when idle", name, version, extra=about)
            self._put(VersionState(name, version, UNLOADING))

    def _forget(self, name: str, found: set[int]) -> None:
        """Drops what ended and is no longer on disk, so that the table does not grow for ever."""
        for state in self.states(name):
            if state.state in (START, END) and state.version not in found:
                self._drop(state)

    def _put(self, state: VersionState) -> None:
        with self._lock:
            self._states = {**self._states, (state.name, state.version): state}

    def _drop(self, state: VersionState) -> None:
        with self._lock:
            key = (state.name, state.version)
            self._states = {k: s for k, s in self._states.items() if k != key}

    def _note_gone(self) -> None:
        """Servables that nothing refers to any more have ended."""
        while self._gone:
            try:
                name, version = self._gone.popleft()
            except IndexError:  # another thread took it
                return
            self._garbage = True
            with self._lock:
                state = self._states.get((name, version))
                if state is None or state.state != UNLOADING:
                    continue
                ended = VersionState(name, version, END)
                self._states = {**self._states, (name, version): ended}
            about = {"model": name, "version": version}
            _log.info("%s version %d is unloaded", name, version, extra=about)


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

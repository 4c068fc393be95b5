"""Beam's own options: which runner, and the one mode that must not be used."""

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions

from beam_pipelines.errors import InputError

DEFAULT_RUNNER = "FnApiRunner"  # in-process; the name DirectRunner may try to download another
DASK_RUNNER = "DaskRunner"  # Beam knows it by its module only
_DASK_MODULE = "apache_beam.runners.dask.dask_runner"


def make_options(arguments: Sequence[str]) -> PipelineOptions:
    """Beam options, with a default runner that needs no network.

    Raises:
      InputError: for a flag that Beam doesn't know, and for the multi-threaded mode.
    """
    runner = PipelineOptions(list(arguments)).view_as(StandardOptions).runner
    if runner == DASK_RUNNER:
        arguments = [*_dask_defaults(), *arguments]
    options = PipelineOptions(list(arguments))
    unknown = sorted(
        set(options.get_all_options(retain_unknown_options=True)) - set(_known_options())
    )
    if unknown or (arguments and not arguments[0].startswith("--")):
        name = f"--{unknown[0]}" if unknown else repr(arguments[0])
        raise InputError(f"{name} is an option neither of this command nor of Beam; see --help.")
    if options.view_as(DirectOptions).direct_running_mode == "multi_threading":
        raise InputError(
            "--direct_running_mode=multi_threading silently loses rows after a GroupByKey; "
            "use in_memory (the default) or multi_processing."
        )
    names = {None: DEFAULT_RUNNER, DASK_RUNNER: f"{_DASK_MODULE}.{DASK_RUNNER}"}
    options.view_as(StandardOptions).runner = names.get(runner, runner)
    return options


@contextlib.contextmanager
def pipeline(options: PipelineOptions) -> Iterator[beam.Pipeline]:
    """A pipeline that runs when the block has ended; returns when all of it is done."""
    with beam.Pipeline(options=options) as p:
        yield p
    result: Any = p.result
    if hasattr(result, "client"):  # Dask: work of a worker that leaves later would be repeated
        result.client.cancel(result.futures)
        result.client.close()


def _dask_defaults() -> list[str]:
    """Loads the runner, so that Beam knows its flags: an element is minutes of work, so one each.

    Beam's own default puts 128 elements into one task, which a single worker would do.
    """
    try:
        importlib.import_module("distributed")
        importlib.import_module(_DASK_MODULE)
    except ImportError as e:
        raise InputError(f"{DASK_RUNNER} needs Dask: pip install 'guim-tf[dask]'.") from e
    return ["--dask_partition_size=1"]


def _known_options() -> dict[str, object]:
    return PipelineOptions([]).get_all_options()

"""Beam's own options: which runner, and the one mode that must not be used."""

from collections.abc import Sequence

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions

from beam_pipelines.errors import InputError

DEFAULT_RUNNER = "FnApiRunner"  # in-process; the name DirectRunner may try to download another


def make_options(arguments: Sequence[str]) -> PipelineOptions:
    """Beam options, with a default runner that needs no network.

    Raises:
      InputError: for a flag that Beam doesn't know, and for the multi-threaded mode.
    """
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
    if options.view_as(StandardOptions).runner is None:
        options.view_as(StandardOptions).runner = DEFAULT_RUNNER
    return options


def _known_options() -> dict[str, object]:
    return PipelineOptions([]).get_all_options()

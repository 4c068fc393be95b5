"""The command `guim`: each subcommand is the `main(argv)` of one module, imported when run."""

import importlib
import os
import sys

from guim_tf.precision import VARIABLE, prefer_bfloat16
from guim_tf.threads import prefer_branches
from guim_tf.version import __version__

COMMANDS = {
    "prepare": ("guim_tf.datasets.prepare:main", "write a public or synthetic log and its mapping"),
    "build-dataset": ("beam_pipelines.build_dataset:main", "a log to TFRecords, with Beam"),
    "inspect": ("guim_tf.inspection.command:main", "print and draw what a data set holds"),
    "train": ("guim_tf.training:main", "train a model, or resume its training"),
    "export": ("guim_tf.export:main", "write the encoders as SavedModels"),
    "embed-items": ("beam_pipelines.embed:main_items", "vectors of a catalogue, with Beam"),
    "embed-users": ("beam_pipelines.embed:main_users", "vectors of all users, with Beam"),
    "index": ("guim_tf.retrieval:main", "build the retrieval models"),
    "serve": ("serving.command:main", "serve SavedModels as TF Serving does"),
    "recommend": ("serving.client:main", "ask a server what a user may want next"),
    "explore": ("serving.explore.command:main", "a web page on a server: users, items, a map"),
    "evaluate": ("guim_tf.evaluation:main", "score vectors and baselines, write a report"),
    "compatibility": (
        "guim_tf.evaluation.compatibility:main",
        "how well a release goes on with what was made for the one before",
    ),
    "benchmark": ("guim_tf.benchmark:main", "compare many configurations over many seeds"),
}
TRAINS = ("train", "benchmark")


def usage() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{text}" for name, (_, text) in COMMANDS.items()]
    return (
        f"guim {__version__}: general user and item embeddings\n\n"
        "usage: guim COMMAND [options]        guim COMMAND --help\n\n"
        "commands, in the order in which data flows:\n" + "\n".join(lines) + "\n"
    )


def main(argv: list[str] | None = None) -> int:
    """Runs a subcommand; returns its exit status (2 for wrong input, 130 when interrupted)."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage(), end="")
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    if arguments[0] not in COMMANDS:
        print(f"guim: unknown command {arguments[0]!r}\n\n{usage()}", end="", file=sys.stderr)
        return 2
    module, function = COMMANDS[arguments[0]][0].split(":")
    return getattr(importlib.import_module(module), function)(arguments[1:])


def console() -> int:
    """`main` of this process's own arguments, with the environment set for it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reports missing GPUs as errors
    if sys.argv[1:2] and sys.argv[1] in TRAINS and not {"-h", "--help"} & set(sys.argv):
        prefer_branches()
        if prefer_bfloat16():
            kept = f"{VARIABLE}=FP32 keeps them in float32."
            print(f"Products are in bfloat16; {kept}", file=sys.stderr)
    return main()


if __name__ == "__main__":
    sys.exit(console())

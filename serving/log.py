"""Where a server's log lines go: as text for people, or as JSON for a collector."""

import logging
import sys

from pythonjsonlogger.json import JsonFormatter

TEXT, JSON = "text", "json"


def configure(form: str) -> None:
    """Text: what happens on stdout, what goes wrong on stderr. JSON: one object a line, on stdout.

    Every line of the serving room has the fields `model` and `version` where it is about one.
    """
    steps = logging.StreamHandler(sys.stdout)
    if form == JSON:
        steps.setFormatter(
            JsonFormatter(
                "{levelname}{name}{message}",
                style="{",
                timestamp=True,
                rename_fields={"levelname": "level", "name": "logger"},
            )
        )
        logging.getLogger().addHandler(steps)
    else:
        steps.setFormatter(logging.Formatter("{message}", style="{"))
        steps.addFilter(lambda record: record.levelno < logging.WARNING)
        troubles = logging.StreamHandler(sys.stderr)
        troubles.setFormatter(logging.Formatter("{levelname} {name}: {message}", style="{"))
        troubles.setLevel(logging.WARNING)
        logging.getLogger().addHandler(steps)
        logging.getLogger().addHandler(troubles)
    logging.getLogger("serving").setLevel(logging.INFO)

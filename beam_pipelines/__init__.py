"""The log room: pipelines from a raw log to a data set, and from a model to vectors."""

import logging


def _concerns_us(record: logging.LogRecord) -> bool:
    """Beam warns on import about Google's clients, which nothing here uses."""
    return "apitools not found" not in record.getMessage()


logging.getLogger().addFilter(_concerns_us)

"""The error of a log, a mapping or a setting that can't be used."""


class InputError(ValueError):
    """What a user gave can't be used; the message says what, why, and what to do."""

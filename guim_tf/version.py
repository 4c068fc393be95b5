"""The package's version, read by `setup.py` and stamped into every artifact."""

__version__ = "0.1.0"

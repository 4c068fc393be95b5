"""The package's version, read by `setup.py` and stamped into every artifact, and its build."""

import hashlib
import pathlib

__version__ = "0.1.0"


def build() -> str:
    """Tells one state of this package's code from another: its version and a digest of it."""
    package = pathlib.Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.read_bytes())
    return f"{__version__}, source {digest.hexdigest()[:8]}"

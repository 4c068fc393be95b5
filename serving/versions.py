"""The versions of a model on disk, and whether one of them is whole.

An exporter that writes under a temporary name and renames never shows half a version. A copy by
hand does, so that what lies there is looked at before it is loaded.
"""

import json
import pathlib
import time
from typing import TypeAlias

from guim_tf import schema

EXTRA_FOLDER = "assets.extra"

# (path inside the folder, size, nanoseconds of the last change) of each file. The time is of the
# inode, which unlike a file's date can't be copied along.
Listing: TypeAlias = tuple[tuple[str, int, int], ...]


def find_versions(folder: str | pathlib.Path) -> tuple[int, ...]:
    """Version numbers of a model folder, ascending: its subfolders whose name is a number.

    Raises:
      OSError: the folder can't be read.
    """
    folder = pathlib.Path(folder)
    if not folder.exists():
        return ()
    return tuple(sorted(int(f.name) for f in folder.iterdir() if _is_number(f.name) and f.is_dir()))


def _is_number(name: str) -> bool:
    """Whether a folder is a version; `007` is not, so that each version has one folder."""
    return name.isascii() and name.isdecimal() and str(int(name)) == name and int(name) < 1 << 63


def list_files(path: pathlib.Path) -> Listing:
    """What is in a version's folder; files that vanish meanwhile are left out."""
    found = []
    for file in sorted(path.rglob("*")):
        try:
            state = file.stat()
        except FileNotFoundError:
            continue
        size = state.st_size if file.is_file() else -1
        found.append((str(file.relative_to(path)), size, state.st_ctime_ns))
    return tuple(found)


def lists_files(path: pathlib.Path) -> bool:
    """Whether a version says which files belong to it, as those of this project do."""
    return (path / EXTRA_FOLDER / schema.MANIFEST_FILE).is_file()


def what_is_missing(
    path: pathlib.Path, listing: Listing, *, expect_manifest: bool, settle_seconds: float
) -> str | None:
    """Why a version can't be loaded yet; None for one that is whole.

    A folder with a manifest is whole when each file of it has its size. Another one counts as
    whole when nothing in it has changed for a while.

    Args:
      path: the version's folder.
      listing: of `list_files`.
      expect_manifest: whether other versions of the model have one.
      settle_seconds: how long that while is.
    """
    manifest = path / EXTRA_FOLDER / schema.MANIFEST_FILE
    if manifest.is_file():
        try:
            expected = dict(json.loads(manifest.read_text(encoding="utf-8"))["files"])
        except (ValueError, KeyError, TypeError):
            return f"{manifest} is not complete"
        sizes = {name: size for name, size, _ in listing}
        for name, size in expected.items():
            if sizes.get(name) != size:
                return f"{path / name} has {sizes.get(name, 0)} of {size} bytes"
        return None
    if expect_manifest:
        return f"{manifest} does not exist, as it does for other versions"
    newest = max((changed for _, _, changed in listing), default=path.stat().st_ctime_ns)
    if time.time_ns() - newest < settle_seconds * 1e9:
        return f"{path} is still being written"
    return None

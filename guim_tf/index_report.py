"""What was measured when an index was built, kept with it as `assets.extra/index.json`."""

import dataclasses
import pathlib

from guim_tf import strict_json
from guim_tf.artifacts import EXTRA

REPORT_FILE = "index.json"


@dataclasses.dataclass(frozen=True)
class IndexReport:
    """An index, and how well it finds.

    Attributes:
      build: "scann" or "exact".
      items: how many there are; new_items: how many of them are no items of the data set.
      dim: d.
      leaves, leaves_to_search, reordered, dtype: `ScannSettings`; None for the exact build.
      recall: share of the exact k nearest neighbours that ScaNN finds; None for the exact build.
      k: length of the lists that were compared.
      queries: how many lists; items' own vectors, as if users had them.
      min_recall: the bound that recall was held to.
      seconds: to make the index and to measure it.
    """

    build: str
    items: int
    new_items: int
    dim: int
    leaves: int | None = None
    leaves_to_search: int | None = None
    reordered: int | None = None
    dtype: str | None = None
    recall: float | None = None
    k: int | None = None
    queries: int | None = None
    min_recall: float | None = None
    seconds: float = 0.0

    @classmethod
    def load(cls, folder: str | pathlib.Path) -> "IndexReport":
        """Of a version's folder, `<models>/retrieval/<version>`."""
        return strict_json.load(cls, pathlib.Path(folder, EXTRA, REPORT_FILE))

"""UCI Online Retail (D. Chen, 2015): a year of invoice lines of a gift shop, read as published.

A purchase is a line with a customer, of an invoice that was not cancelled, with a positive
quantity. There is no category: the first three characters of a stock code group related items.
The label of a customer is the country; nine of ten live in the United Kingdom.
"""

import collections
import csv
import glob
import gzip
import pathlib

from guim_tf.datasets.files import DatasetError, published_file, write_csv, write_mapping
from guim_tf.mapping import Column, EventsMapping, LabelsMapping, Mapping, RowFilter

SOURCE = "https://archive.ics.uci.edu/dataset/352/online+retail (as gzipped CSV)"


def prepare(*, data_dir: str | pathlib.Path, output: str | pathlib.Path) -> pathlib.Path:
    """Writes `labels.csv` and a mapping that points at `online_retail.csv.gz`; returns it.

    Raises:
      DatasetError: the published file is not there or is not what it should be.
    """
    log = published_file(data_dir, "online_retail", "online_retail.csv.gz", source=SOURCE)
    output = pathlib.Path(output)
    write_csv(output / "labels.csv", ("CustomerID", "country"), sorted(_countries(log).items()))
    mapping = Mapping(
        events=EventsMapping(
            files=(glob.escape(str(log)),),
            user_id=Column("CustomerID"),
            item_id=Column("StockCode"),
            timestamp=Column("InvoiceDate"),
            timestamp_unit="iso",
            category_id=Column("StockCode", prefix=3),
            title=Column("Description"),
            filters=(
                RowFilter("CustomerID", "present"),
                RowFilter("InvoiceNo", "not_starts_with", "C"),
                RowFilter("Quantity", ">", 0),
            ),
        ),
        labels=LabelsMapping(
            files=("labels.csv",), user_id=Column("CustomerID"), labels=("country",)
        ),
    )
    return write_mapping(output, mapping)


def _countries(log: pathlib.Path) -> dict[str, str]:
    """The country of most of a customer's lines; of as many, the first by name."""
    lines: collections.Counter[tuple[str, str]] = collections.Counter()
    try:
        with gzip.open(log, "rt", encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            customer, country = header.index("CustomerID"), header.index("Country")
            lines.update((row[customer], row[country]) for row in reader)
    except (OSError, EOFError, ValueError, IndexError) as e:
        raise DatasetError(
            f"{log}: expected gzipped CSV with the columns CustomerID and Country ({e}). "
            "Get the file again."
        ) from e
    found: dict[str, str] = {}
    for (user, place), _ in sorted(lines.items(), key=lambda x: (-x[1], x[0])):
        if user and place not in ("", "Unspecified"):
            found.setdefault(user, place)
    return found

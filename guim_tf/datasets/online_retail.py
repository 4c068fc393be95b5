"""UCI Online Retail (D. Chen, 2015): a year of invoice lines of a gift shop, read as published.

A purchase is a line with a customer, of an invoice that was not cancelled, with a positive
quantity. There is no category: the first three characters of a stock code group related items.
"""

import glob
import pathlib

from guim_tf.config import Column, EventsMapping, Mapping, RowFilter
from guim_tf.datasets.files import published_file, write_mapping

SOURCE = "https://archive.ics.uci.edu/dataset/352/online+retail (as gzipped CSV)"


def prepare(*, data_dir: str | pathlib.Path, output: str | pathlib.Path) -> pathlib.Path:
    """Writes a mapping that points at `online_retail.csv.gz`; returns it.

    Raises:
      DatasetError: the published file is not there.
    """
    log = published_file(data_dir, "online_retail", "online_retail.csv.gz", source=SOURCE)
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
        )
    )
    return write_mapping(pathlib.Path(output), mapping)

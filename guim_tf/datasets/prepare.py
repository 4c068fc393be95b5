"""guim prepare: a public data set or the synthetic shop -> the input of `guim build-dataset`."""

import argparse
import pathlib
import sys
from collections.abc import Callable, Sequence

from guim_tf.datasets import (
    amazon_s3rec,
    movielens_1m_half,
    movielens_100k,
    online_retail,
    synthetic,
)

PUBLIC: dict[str, Callable[..., pathlib.Path]] = {
    "online_retail": online_retail.prepare,
    "movielens_1m_half": movielens_1m_half.prepare,
    "movielens_100k": movielens_100k.prepare,
    "amazon_beauty": amazon_s3rec.prepare_beauty,
    "amazon_sports": amazon_s3rec.prepare_sports,
}
EXAMPLES = """examples:
  guim prepare online_retail --data-dir ~/data --output prepared/online_retail
  guim prepare synthetic --output prepared/shop --users 3000 --items 1500 --seed 7

--data-dir is a folder with one folder a data set, as published: online_retail/online_retail.csv.gz,
movielens_1m_half/ratings.dat.gz, movielens_100k/u.data, amazon_s3rec/Beauty.txt.gz ... Nothing is
downloaded.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the mapping file; returns 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="guim prepare",
        description="Write a folder with mapping.json, the input of guim build-dataset.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", choices=[*PUBLIC, "synthetic"], help="the data set")
    parser.add_argument("--data-dir", help="where the published files are (not for synthetic)")
    parser.add_argument("--output", required=True, help="the folder to write")
    shop = parser.add_argument_group("sizes of the synthetic shop")
    shop.add_argument("--users", type=int, default=3_000, help="(default: %(default)s)")
    shop.add_argument("--items", type=int, default=1_500, help="(default: %(default)s)")
    shop.add_argument("--days", type=int, default=395, help="(default: %(default)s)")
    shop.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    shop.add_argument(
        "--purchases-per-user", type=float, default=60.0, help="mean (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    try:
        if arguments.name == "synthetic":
            path = synthetic.prepare(
                output=arguments.output,
                users=arguments.users,
                items=arguments.items,
                days=arguments.days,
                seed=arguments.seed,
                purchases_per_user=arguments.purchases_per_user,
            )
        elif arguments.data_dir is None:
            raise ValueError(f"--data-dir is missing: where the files of {arguments.name} are.")
        else:
            path = PUBLIC[arguments.name](data_dir=arguments.data_dir, output=arguments.output)
    except (ValueError, OSError) as e:
        print(f"guim prepare: {e}", file=sys.stderr)
        return 2
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

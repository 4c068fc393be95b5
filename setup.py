"""Metadata of guim-tf. Exact tested versions are in constraints.txt."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (ROOT / "guim_tf" / "version.py").read_text(encoding="utf-8")
)
assert VERSION

# The web page of `guim explore`: 200 MB that no server and no training needs.
DASK = "apache-beam[dask]>=2.77,<3"  # the distributed engine that is tested
EXPLORE = [
    "dash>=4,<5",  # brings its JavaScript: nothing is fetched when the page is shown
    "plotly>=6,<8",  # the map
    "scikit-learn>=1.5,<2",  # t-SNE; max_iter has that name since
    "threadpoolctl>=3",  # comes with it
]

setup(
    name="guim-tf",
    version=VERSION.group(1),
    description="General user and item embeddings for e-commerce: logs to vectors to answers",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.12",  # ScaNN and tensorflow-text wheels that fit each other
    packages=find_packages(include=["guim_tf*", "beam_pipelines*", "serving*"]),
    package_data={
        "guim_tf.evaluation": ["*.html"],
        "guim_tf.benchmark": ["*.html"],
        "guim_tf.inspection": ["*.html"],
        "beam_pipelines": ["docker/*"],
        "serving": ["docker/*", "README.md", "explore/assets/*"],
    },
    install_requires=[
        "tensorflow>=2.20,<2.21",  # scann[tf] 1.4.2 is built against 2.20 and no other
        "tf-keras>=2.20,<2.21",  # TensorFlow Recommenders refuses Keras 3
        "tensorflow-text>=2.20,<2.21",  # NFKC inside the exported graphs
        "tensorflow-recommenders>=0.7.4",  # the first with [P, C, d] queries
        "scann[tf]>=1.4.2,<1.5",  # TensorFlow ops for the index
        "apache-beam>=2.77,<3",  # pipelines
        "google-crc32c>=1.5",  # Beam writes TFRecords with it
        "pyarrow>=15",  # record batches, Parquet
        "tensorflow-serving-api>=2.20,<2.21",  # the official stubs
        "grpcio-health-checking>=1.60",  # the standard health service
        "aiohttp>=3.9",  # TF Serving's REST interface, on gRPC's event loop
        "prometheus-client>=0.20",  # metrics in Prometheus' text format
        "python-json-logger>=3",  # the server's log as JSON lines
        "jinja2>=3.1",  # the HTML report
        "matplotlib>=3.8",  # its plots
        "rich>=13",  # tables on the terminal
        "tqdm>=4.66",  # progress bars outside model.fit
        "tensorboard>=2.20,<2.21",  # training curves
    ],
    extras_require={
        "explore": EXPLORE,
        "dask": [DASK],
        "dev": [
            *EXPLORE,
            DASK,
            "playwright>=1.40",  # drives the page in the system's Chromium; downloads none
            "pytest>=8",
            "pytest-xdist>=3.6",  # most tests keep one core busy: two processes take half the time
            "pytest-timeout>=2.3",  # a server test that hangs must fail
            "hypothesis>=6.100",  # requests and logs that nobody thought of
            "trustme>=1.1",  # certificates for tests, made on the spot
            "polars>=1.30",  # the yardstick of benchmarks/pipeline.py
            "ruff>=0.5",
            "mypy>=1.10",
        ],
    },
    entry_points={"console_scripts": ["guim=guim_tf.cli:console"]},
)

"""Fixtures shared by all rooms."""

import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The folder with the public data sets; tests that need it skip where it is absent."""
    folder = pathlib.Path(os.environ.get("GUIM_DATA_DIR", ROOT.parent / "shared" / "data"))
    if not (folder / "online_retail").is_dir():
        pytest.skip("set GUIM_DATA_DIR to the folder with the public data sets to run this test")
    return folder


@pytest.fixture(scope="session")
def online_retail_dataset(data_dir, tmp_path_factory) -> pathlib.Path:
    """The whole Online Retail log as a data set folder."""
    from beam_pipelines.build_dataset import build_dataset
    from guim_tf.datasets import online_retail

    folder = tmp_path_factory.mktemp("online_retail")
    mapping = online_retail.prepare(data_dir=data_dir, output=folder / "input")
    build_dataset(mapping_file=mapping, output=folder / "dataset")
    return folder / "dataset"

"""Fixtures shared by all rooms."""

import gc
import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module", autouse=True)
def _small_heap():
    """What a file leaves behind is looked at once: TensorFlow keeps traced graphs, and after many
    files one garbage collection, which a server asks for, would take half a minute."""
    yield
    gc.collect()
    gc.freeze()


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


@pytest.fixture(scope="session")
def shop_input(tmp_path_factory) -> pathlib.Path:
    """The mapping file of a small synthetic shop."""
    from guim_tf.datasets import synthetic

    folder = tmp_path_factory.mktemp("shop")
    return synthetic.generate(output=folder / "input", users=400, items=300, seed=1)


@pytest.fixture(scope="session")
def shop_dataset(shop_input) -> pathlib.Path:
    """The small synthetic shop as a data set folder."""
    from beam_pipelines.build_dataset import build_dataset

    folder = shop_input.parent.parent / "dataset"
    build_dataset(mapping_file=shop_input, output=folder, shards=2)
    return folder


@pytest.fixture(scope="session")
def small_config():
    """A network small enough to train in seconds."""
    from guim_tf.config import Config, LossConfig, ModelConfig, TrainingConfig, WindowConfig

    return Config(
        model=ModelConfig(
            interests=3,
            embedding_dim=32,
            item_id_dim=16,
            category_dim=16,
            word_dim=8,
            layers=1,
        ),
        loss=LossConfig(logq=True),
        window=WindowConfig(max_length=32, max_targets=16),
        training=TrainingConfig(epochs=3),
    )


@pytest.fixture(scope="session")
def shop_run(shop_dataset, small_config) -> pathlib.Path:
    """A finished run on the small shop."""
    from guim_tf.training import train

    run = shop_dataset.parent / "run"
    train(dataset=shop_dataset, run=run, config=small_config, progress=False)
    return run


@pytest.fixture(scope="session")
def other_shop_run(shop_dataset, small_config) -> pathlib.Path:
    """The same training from another start: the same shop in another space."""
    from guim_tf.config import configure
    from guim_tf.training import train

    run = shop_dataset.parent / "other_run"
    config = configure(small_config, ["training.seed=5"])
    train(dataset=shop_dataset, run=run, config=config, progress=False)
    return run


@pytest.fixture(scope="session")
def shop_models(shop_dataset, shop_run) -> pathlib.Path:
    """All four exported models of the small shop."""
    from guim_tf.export import export
    from guim_tf.retrieval import EXACT, SCANN, build_index

    models = shop_dataset.parent / "models"
    export(run=shop_run, models=models)
    for build in (SCANN, EXACT):
        build_index(dataset=shop_dataset, models=models, build=build)
    return models

"""Servers of small models that answer what the page asks."""

import contextlib
import pathlib

import pytest
from explore_testing import save_models

from serving import server
from serving.explore.answers import Server
from serving.explore.endpoint import Endpoint


@contextlib.contextmanager
def running(models: pathlib.Path):
    """A server of these models, as the page knows it."""
    handle = server.serve(server.discover(model_folder=models), port=0)
    endpoint = Endpoint.connect(handle.address)
    yield Server(retrieval=endpoint, encoders=endpoint)
    endpoint.channel.close()
    handle.stop()


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Two interests, mug and pan, by an index that explains."""
    folder = tmp_path_factory.mktemp("small")
    save_models(folder, interests=2, explains=True)
    with running(folder) as answers:
        yield answers


@pytest.fixture(scope="session")
def eight(tmp_path_factory):
    """Eight interests, by an index that does not explain."""
    folder = tmp_path_factory.mktemp("eight")
    save_models(folder, interests=8, explains=False)
    with running(folder) as answers:
        yield answers

"""How many threads an operation of training has."""

import os

import pytest

from guim_tf.threads import VARIABLE, prefer_branches


@pytest.mark.parametrize(("processors", "threads"), [(1, 1), (2, 1), (3, 1), (16, 8)])
def test_branches_share_the_processors(processors, threads, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))
    assert prefer_branches() == threads
    assert os.environ[VARIABLE] == str(threads)
    monkeypatch.delenv(VARIABLE)


def test_the_users_choice_stands(monkeypatch):
    monkeypatch.setenv(VARIABLE, "5")
    assert prefer_branches() == 5
    assert os.environ[VARIABLE] == "5"

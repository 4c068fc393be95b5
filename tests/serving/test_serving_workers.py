"""Whether any thread is busy."""

import threading

import pytest

from serving.workers import Workers


def test_it_is_idle_when_all_that_was_submitted_is_done():
    gate = threading.Event()
    with Workers(1) as workers:
        assert workers.wait_idle(0)

        running, queued = workers.submit(gate.wait), workers.submit(int, "7")
        assert not workers.wait_idle(0)

        gate.set()
        assert workers.wait_idle(60)
        assert running.done()
        assert queued.result() == 7


def test_a_task_that_fails_is_done_as_well():
    with Workers(1) as workers:
        failed = workers.submit(int, "seven")
        assert workers.wait_idle(60)
        with pytest.raises(ValueError, match="seven"):
            failed.result()


def test_a_closed_pool_takes_nothing_and_stays_idle():
    workers = Workers(1)
    workers.shutdown()
    with pytest.raises(RuntimeError):
        workers.submit(int)
    assert workers.wait_idle(0)

import gc
import threading
import time

import pytest

from odmt.training.prefetch import prefetched


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert prefetch_threads() == []


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_all_comes_in_order(depth):
    assert list(prefetched(iter(range(50)), depth)) == list(range(50))


def test_nothing_gives_nothing():
    assert list(prefetched([])) == []


def test_none_is_an_element_like_any_other():
    assert list(prefetched([None, 1, None])) == [None, 1, None]


def test_an_error_comes_after_what_was_made_before_it():
    def source():
        yield 1
        yield 2
        raise ValueError("the third is bad")

    made = prefetched(source())
    assert [next(made), next(made)] == [1, 2]
    with pytest.raises(ValueError, match="the third is bad"):
        next(made)
    assert prefetch_threads() == []


def test_a_consumer_that_stops_early_ends_the_thread():
    made = prefetched(iter(range(10_000)))
    assert next(made) == 0
    assert len(prefetch_threads()) == 1
    made.close()
    assert prefetch_threads() == []


def test_a_consumer_that_fails_ends_the_thread():
    def consume():
        for _ in prefetched(iter(range(10_000))):
            raise RuntimeError("of the consumer")

    with pytest.raises(RuntimeError, match="of the consumer") as caught:
        consume()
    del caught  # its traceback holds the generator
    gc.collect()
    assert prefetch_threads() == []


def test_what_is_never_consumed_starts_no_thread():
    made = prefetched(iter(range(3)))
    assert prefetch_threads() == []
    made.close()


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_is_made_ahead_than_the_depth_and_the_one_in_hand(depth):
    count = 0

    def source():
        nonlocal count
        for number in range(100):
            count += 1
            yield number

    made = prefetched(source(), depth)
    next(made)
    deadline = time.monotonic() + 5
    while count < depth + 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert count == depth + 2  # given out, waiting, in hand
    made.close()


def test_the_source_runs_in_another_thread():
    assert set(prefetched(threading.get_ident() for _ in range(3))) != {threading.get_ident()}

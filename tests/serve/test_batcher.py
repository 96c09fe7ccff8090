"""Photos are gathered into batches, wait no longer than they should, and none pays for another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError

import pytest

from engine.serve.batcher import Batcher, Closed, Full, Shape
from engine.serve.photo import Photo


def photo(name: int | str, pixels: int = 1) -> Photo:
    return Photo(str(name).encode(), pixels)


class Slow:
    """Answers a photo with its own content, when it is let; remembers what it was asked together."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.may = threading.Event()
        self.asked = threading.Event()

    def __call__(self, photos: Sequence[Photo]) -> list[bytes]:
        self.batches.append([one.content for one in photos])
        self.asked.set()
        assert self.may.wait(10)
        if any(one.content == b"bad" for one in photos):
            raise ValueError("one is bad")
        return [one.content for one in photos]


@pytest.fixture
def slow() -> Slow:
    return Slow()


Make = Callable[..., "Batcher[bytes]"]


@pytest.fixture
def batcher(slow: Slow) -> Iterator[Make]:
    made: list[Batcher[bytes]] = []

    def make(**shape: float) -> Batcher[bytes]:
        made.append(Batcher(slow, Shape(**{"batch": 3, "deadline_s": 0.0, "queue": 6, "pixels": 100} | shape)))
        return made[-1]

    yield make
    slow.may.set()
    for one in made:
        one.close()


def busy(slow: Slow, one: Batcher[bytes]) -> None:
    """The model is at work, so what comes now waits."""
    one.submit([photo("first")])
    assert slow.asked.wait(10)


def test_what_comes_while_the_model_works_is_answered_together(slow: Slow, batcher: Make) -> None:
    one = batcher()
    busy(slow, one)
    futures = [*one.submit([photo(0), photo(1)]), *one.submit([photo(2)]), *one.submit([photo(3)])]
    slow.may.set()
    assert [future.result(10) for future in futures] == [b"0", b"1", b"2", b"3"]
    assert slow.batches == [[b"first"], [b"0", b"1", b"2"], [b"3"]]


def test_a_batch_waits_for_company_until_the_deadline_and_no_longer_once_it_is_full(slow: Slow, batcher: Make) -> None:
    slow.may.set()
    one = batcher(deadline_s=0.2, batch=2)
    begun = time.monotonic()
    one.submit([photo(0)])[0].result(10)
    alone = time.monotonic() - begun
    begun = time.monotonic()
    futures = [one.submit([photo(name)])[0] for name in (1, 2)]
    assert [future.result(10) for future in futures] == [b"1", b"2"]
    full = time.monotonic() - begun
    assert alone >= 0.2 and full < 0.2 and slow.batches == [[b"0"], [b"1", b"2"]]


def test_a_full_queue_takes_all_of_a_request_or_nothing_and_says_when_to_come_again(slow: Slow, batcher: Make) -> None:
    one = batcher()
    busy(slow, one)
    one.submit([photo(0)] * 4)
    with pytest.raises(Full) as refused:
        one.submit([photo(1)] * 3)
    assert one.waiting == 4 and refused.value.retry_after_s == 1
    one.submit([photo(2)] * 2)
    assert one.waiting == 6


def test_when_to_come_again_is_what_the_batches_so_far_took(slow: Slow, batcher: Make) -> None:
    one = batcher(queue=200, batch=1)
    threading.Timer(0.1, slow.may.set).start()
    one.submit([photo(0)])[0].result(10)
    slow.may.clear(), slow.asked.clear()
    busy(slow, one)
    one.submit([photo(1)] * 40)
    assert 4 <= one.retry_after_s() <= 40


def test_who_leaves_gives_his_place_up(slow: Slow, batcher: Make) -> None:
    one = batcher()
    busy(slow, one)
    left, stays = one.submit([photo("left")])[0], one.submit([photo("stays")])[0]
    assert left.cancel() and one.waiting == 1
    slow.may.set()
    assert stays.result(10) == b"stays" and slow.batches == [[b"first"], [b"stays"]]
    with pytest.raises(CancelledError):
        left.result()


def test_a_batch_that_fails_costs_only_the_culprit(slow: Slow, batcher: Make) -> None:
    one = batcher()
    busy(slow, one)
    good, bad, also = one.submit([photo("good"), photo("bad"), photo("also")])
    slow.may.set()
    assert (good.result(10), also.result(10)) == (b"good", b"also")
    with pytest.raises(ValueError, match="one is bad"):
        bad.result(10)


def test_a_model_that_answers_too_few_is_not_believed() -> None:
    one = Batcher(lambda photos: ["only"], Shape(deadline_s=0))
    assert one.submit([photo(0)])[0].result(10) == "only"  # and the thread goes on after this:
    lost = Batcher(lambda photos: [], Shape(deadline_s=0))
    with pytest.raises(RuntimeError, match="0 answers about 1 photos"):
        lost.submit([photo(0)])[0].result(10)
    one.close(), lost.close()


def test_a_model_that_wants_to_end_the_process_does_not_end_the_answers() -> None:
    def answer(photos: Sequence[Photo]) -> list[bytes]:
        if photos[0].content == b"bad":
            raise SystemExit
        return [one.content for one in photos]

    one = Batcher(answer, Shape(deadline_s=0))
    with pytest.raises(SystemExit):
        one.submit([photo("bad")])[0].result(10)
    assert one.submit([photo("good")])[0].result(10) == b"good"
    one.close()


def test_large_photos_make_small_batches(slow: Slow, batcher: Make) -> None:
    one = batcher()
    busy(slow, one)
    futures = one.submit([photo(0, 60), photo(1, 60), photo(2, 30), photo(3, 500)])
    slow.may.set()
    assert [future.result(10) for future in futures] == [b"0", b"1", b"2", b"3"]
    assert slow.batches[1:] == [[b"0"], [b"1", b"2"], [b"3"]]


def test_other_work_has_its_turn_between_batches(slow: Slow, batcher: Make) -> None:
    one = batcher()
    busy(slow, one)
    before = one.submit([photo(0)])[0]
    work = one.alone(lambda: len(slow.batches))
    after = one.submit([photo(1)])[0]
    slow.may.set()
    assert (before.result(10), work.result(10), after.result(10)) == (b"0", 2, b"1")
    assert slow.batches == [[b"first"], [b"0"], [b"1"]]


def test_at_the_end_what_waits_is_answered_and_nothing_new_is_taken(slow: Slow, batcher: Make) -> None:
    one = batcher(deadline_s=30)
    waits = one.submit([photo(0)])[0]
    slow.may.set()
    one.close()
    assert waits.result(0) == b"0"
    with pytest.raises(Closed):
        one.submit([photo(1)])

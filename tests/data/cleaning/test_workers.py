"""Decoders that crash, hang or take all the memory, in real processes."""

import os
import signal
import time
from functools import partial

import numpy as np
import psutil
import pytest

from tests.data.conftest import image_bytes
from vitprune.data.cleaning.collection import Content
from vitprune.data.cleaning.examine import Examined, Treatment, examine, examine_all
from vitprune.data.cleaning.pixels import UnusableImage
from vitprune.data.cleaning.workers import BATCH_BYTES, BATCH_ITEMS, Death, Limits, work

LIMITS = Limits(seconds=60, memory_bytes=1 << 28)
TREATMENT = Treatment(image_size=8, channels=3, resize="crop", max_pixels=10**6)


def double(value: int) -> int:
    return 2 * value


def act(item: str) -> str:
    """Do what the item says."""
    if item == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif item == "exit":
        os._exit(3)
    elif item == "hang":
        time.sleep(600)
    elif item == "grow":
        try:
            bytearray(1 << 30)
        except MemoryError:
            return "MemoryError"
    return f"did {item}"


def crash_on_black(treatment: Treatment, content: Content) -> Examined | UnusableImage:
    """Examine an image with a decoder that black pixels crash."""
    result = examine(treatment, content)
    if isinstance(result, Examined) and not result.square.any():
        os.kill(os.getpid(), signal.SIGSEGV)
    return result


@pytest.mark.parametrize("processes", [1, 3, None])
def test_every_item_has_its_result_whatever_the_number_of_processes(processes: int | None) -> None:
    count = 3 * BATCH_ITEMS + 5
    assert dict(work(double, enumerate(range(count)), LIMITS, processes=processes)) == {n: 2 * n for n in range(count)}


def test_long_items_go_in_small_batches() -> None:
    """So that no process waits for one that has many of them."""
    items = [bytes(BATCH_BYTES)] * 5
    assert sorted(number for number, _ in work(len, enumerate(items), LIMITS, processes=2)) == [0, 1, 2, 3, 4]


def test_nothing_to_do_starts_no_process() -> None:
    assert list(work(double, [], LIMITS)) == []


@pytest.mark.fault("a decoder that crashes, hangs or exits", "it costs one image, and the cause is said")
@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("crash", "killed its process (SIGSEGV)"),
        ("exit", "killed its process (exit status 3)"),
        ("hang", "took longer than 1 s"),
    ],
)
def test_an_item_that_kills_its_worker_costs_only_itself(item: str, reason: str) -> None:
    items = ["a", item, "b", item, "c"]
    results = dict(work(act, enumerate(items), Limits(seconds=1, memory_bytes=1 << 28), processes=1))
    assert results == {0: "did a", 1: Death(reason), 2: "did b", 3: Death(reason), 4: "did c"}


@pytest.mark.fault("a decoder that asks for all the memory", "it gets no more than its limit, and costs one image")
def test_a_worker_has_no_more_memory_than_its_limit() -> None:
    assert dict(work(act, enumerate(["grow", "a"]), LIMITS)) == {0: "MemoryError", 1: "did a"}
    assert dict(work(act, enumerate(["grow"]), Limits(seconds=60, memory_bytes=1 << 32))) == {0: "did grow"}


def test_an_image_that_crashes_its_decoder_is_one_image_that_cannot_be_used() -> None:
    black = np.zeros((10, 10, 3), np.uint8)
    contents: list[Content] = [image_bytes(0), black, image_bytes(1)]
    results = dict(work(partial(crash_on_black, TREATMENT), enumerate(contents), LIMITS))
    assert isinstance(results[1], Death)
    assert all(isinstance(results[index], Examined) for index in (0, 2))


def test_images_are_examined_in_processes_as_they_are_here() -> None:
    contents: list[Content] = [image_bytes(0), b"no image", image_bytes(1, format="JPEG")]
    results = dict(examine_all(enumerate(contents), TREATMENT))
    for index, content in enumerate(contents):
        here, there = examine(TREATMENT, content), results[index]
        assert type(here) is type(there)
        if isinstance(here, Examined) and isinstance(there, Examined):
            np.testing.assert_array_equal(here.square, there.square)
            assert (here.digest, here.notes, here.peak) == (there.digest, there.notes, there.peak)
            np.testing.assert_array_equal(here.quality, there.quality)


def test_workers_end_with_the_one_who_asked() -> None:
    """Who stops asking leaves no process behind, whatever it is doing."""
    results = work(act, enumerate(["a"] * BATCH_ITEMS + ["hang"]), LIMITS, processes=2)
    assert next(results)[1] == "did a"
    assert workers()
    results.close()  # type: ignore[attr-defined]
    assert not workers()


def workers() -> list[psutil.Process]:
    """Processes that were forked from the server that this process started."""
    return [child for child in psutil.Process().children(recursive=True) if child.ppid() != os.getpid()]

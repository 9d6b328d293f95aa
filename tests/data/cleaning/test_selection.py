import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vitprune.core.packed import SplitName
from vitprune.data.cleaning.collection import ImageFile
from vitprune.data.cleaning.selection import KEPT, Verdict, audit, cut_stratified


def judged(*images: tuple[SplitName, str, bytes | None]) -> list[Verdict]:
    files = [
        ImageFile(name=f"{number}", split=split, folder=folder, position=number)
        for number, (split, folder, _) in enumerate(images)
    ]
    return audit(files, [digest for *_, digest in images])


def test_different_images_are_kept() -> None:
    assert judged(("train", "a", b"1"), ("val", "a", b"2"), ("test", "a", b"3")) == [KEPT] * 3


def test_undecodable_images_are_no_duplicates_of_each_other() -> None:
    assert judged(("train", "a", None), ("train", "a", None)) == [Verdict(reason="undecodable")] * 2


def test_the_first_of_equal_images_stays() -> None:
    same = Verdict(reason="duplicate", duplicate_of=0)
    assert judged(("train", "a", b"1"), ("train", "a", b"1"), ("train", "a", b"1")) == [KEPT, same, same]


def test_equal_images_of_two_classes_conflict() -> None:
    assert judged(("train", "a", b"1"), ("train", "b", b"1")) == [
        KEPT,
        Verdict(reason="conflicting label", duplicate_of=0),
    ]


def test_an_image_in_two_splits_leaves_train_first_and_val_second() -> None:
    assert judged(("train", "a", b"1"), ("val", "a", b"1")) == [Verdict(reason="also in val", duplicate_of=1), KEPT]
    assert judged(("test", "a", b"1"), ("val", "b", b"1")) == [KEPT, Verdict(reason="also in test", duplicate_of=0)]
    assert judged(("test", "a", b"1"), ("train", "a", b"1"), ("val", "a", b"1")) == [
        KEPT,
        Verdict(reason="also in test", duplicate_of=0),
        Verdict(reason="also in test", duplicate_of=0),
    ]


fractions = st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)).filter(lambda pair: sum(pair) < 1)
class_sizes = st.lists(st.integers(1, 60), min_size=1, max_size=12)


@given(class_sizes, fractions, st.integers(0, 2**32))
def test_the_cut_is_a_partition_with_each_class_in_its_share(
    sizes: list[int], shares: tuple[float, float], seed: int
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    parts = cut_stratified(labels, val_fraction=shares[0], test_fraction=shares[1], seed=seed)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    for label, size in enumerate(sizes):
        train, val, test = (int((labels[part] == label).sum()) for part in parts)
        assert train >= 1
        assert test <= size * shares[1] + 1
        assert val <= size * shares[0] + 1
        if train > 1:
            assert test > size * shares[1] - 1 - 1e-9
            assert val > size * shares[0] - 1 - 1e-9


@given(st.integers(4, 40), st.integers(1, 30), st.floats(0, 0.45), st.floats(0, 0.45))
def test_the_whole_gives_its_share_however_small_the_classes(size: int, classes: int, val: float, test: float) -> None:
    labels = np.repeat(np.arange(classes), size)
    parts = cut_stratified(labels, val_fraction=val, test_fraction=test, seed=0)
    kept_back = sum(np.bincount(labels[parts[0]], minlength=classes) == 1)
    assert abs(len(parts[1]) - val * len(labels)) <= 0.5 + kept_back + 1e-6
    assert abs(len(parts[2]) - test * len(labels)) <= 0.5 + kept_back + 1e-6


def test_the_seed_alone_decides() -> None:
    labels = np.repeat(np.arange(4), 50)
    once, again, other = (cut_stratified(labels, val_fraction=0.2, test_fraction=0.1, seed=s) for s in (1, 1, 2))
    for part, same in zip(once, again, strict=True):
        np.testing.assert_array_equal(part, same)
    assert not np.array_equal(once[1], other[1])


def test_more_images_in_the_last_class_leave_the_cut_of_the_others_alone() -> None:
    few = cut_stratified(np.repeat([0, 1], [50, 30]), val_fraction=0.2, test_fraction=0.2, seed=0)
    many = cut_stratified(np.repeat([0, 1], [50, 60]), val_fraction=0.2, test_fraction=0.2, seed=0)
    for part, longer in zip(few, many, strict=True):
        np.testing.assert_array_equal(part[part < 50], longer[longer < 50])


def test_an_empty_pool_gives_empty_parts() -> None:
    parts = cut_stratified(np.empty(0, np.int64), val_fraction=0.2, test_fraction=0.2, seed=0)
    assert [len(part) for part in parts] == [0, 0, 0]

from vitprune.data.audit import KEPT, Verdict, audit
from vitprune.data.collection import ImageFile
from vitprune.data.packed import SplitName


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

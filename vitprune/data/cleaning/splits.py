"""Find the folders that are splits, by their names and by what they hold.

A name alone proves nothing: a class may be called train, or test tube. Splits hold class folders, and share them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from vitprune.core.packed import SPLITS, SplitName
from vitprune.data.cleaning.folders import Folder, examples, listed
from vitprune.data.cleaning.split_names import Role, Word, read_split, read_splits
from vitprune.errors import DataError

logger = logging.getLogger(__name__)

EXPECTED = (
    "expected are class folders with images (cats/1.jpg), or train, val and test folders with class folders in them "
    "(train/cats/1.jpg), both below any number of common folders"
)


def find_root(top: Folder) -> tuple[Folder, dict[str, Role]]:
    """The folder that holds the splits, or else the class folders; and the splits by the names of their folders.

    Raises DataError if folders look like splits but cannot be told to be some.
    """
    folder = top
    while True:
        splits = _find_splits(folder)
        if splits:
            return folder, splits
        if folder.loose or len(folder.folders) != 1:
            return folder, {}
        (only,) = folder.folders.values()
        if only.loose:
            return folder, {}
        folder = only


def below_wrappers(folder: Folder, known: Collection[str] = ()) -> Folder:
    """Descend to the class folders of a split, or to its images, past folders that hold nothing else.

    Such are ``train/train/cats``, ``train/data/cats`` and ``test/images``. ``known`` are names of classes.
    """
    while not folder.loose and len(folder.folders) == 1:
        (inner,) = folder.folders.values()
        holds_classes = not inner.loose and len(inner.folders) > 1
        is_doubled = inner.name.lower() == folder.name.lower()
        if inner.name in known or not (holds_classes or is_doubled or (inner.name == "images" and inner.is_flat)):
            return folder
        folder = inner
    return folder


def refuse_splits_in_classes(class_folders: Iterable[Folder]) -> None:
    """Raise DataError if a class folder holds splits, which must not be merged into one class."""
    for folder in class_folders:
        for inner in folder.walk():
            splits = [name for name, label in read_splits(inner.folders).items() if label.word != "unlabelled"]
            # A class may have a folder train among others, such as car and bus.
            if splits and len(splits) == len(inner.folders) and (images := inner.folders[splits[0]].images()):
                raise DataError(f"{examples(images)} in a split folder that has others beside or above; {EXPECTED}")


def refuse_classes_like_splits(class_folders: Iterable[Folder]) -> None:
    """Raise DataError if folders hold the same folders, as splits do."""
    first_with: dict[str, Folder] = {}
    for folder in class_folders:
        names = {name for name, inner in folder.folders.items() if inner.images()}
        for other, count in Counter(first_with[name].name for name in names & first_with.keys()).most_common(1):
            if count > 1 and 2 * count >= len(names):
                raise _looks_like_splits(folder.name, other, names & first_with.keys())
        for name in names:
            first_with.setdefault(name, folder)


def _find_splits(folder: Folder) -> dict[str, Role]:
    train = _find_train(folder)
    if train is None:
        _refuse_splits_without_train(folder)
        return {}
    classes = below_wrappers(folder.folders[train]).folders.keys()
    plain = read_splits(folder.folders)
    cores = {name: below_wrappers(inner, classes) for name, inner in sorted(folder.folders.items())}
    sharing = {name for name, core in cores.items() if core.folders.keys() & classes}
    splits: dict[str, Word] = {}
    for name, core in cores.items():
        label = read_split(name)
        if label is None:
            continue
        if (name in plain or name in sharing) and (label.word != "unlabelled" or core.is_flat):
            splits[name] = label.word
        elif label.word == "test" and core.is_flat and len(sharing) > 1:
            # Beside splits, test_of_mixed_fruits cannot be a class either.
            splits[name] = "unlabelled"
    _refuse_strays(folder, splits, train, classes)
    return _one_folder_each(splits)


def _find_train(folder: Folder) -> str | None:
    """The name of a folder that is a training split."""
    labels = {name: label for name in sorted(folder.folders) if (label := read_split(name)) is not None}
    for name, label in labels.items():
        core = below_wrappers(folder.folders[name])
        if label.word != "train" or _holds_splits(core):
            continue
        shared = any(
            core.folders.keys() & below_wrappers(folder.folders[other], core.folders).folders.keys()
            for other in labels
            if other != name
        )
        # A class may be called train; unlike a split, it holds images and no class folders.
        if shared or (name in read_splits(folder.folders) and len(core.folders) > 1):
            return name
    return None


def _holds_splits(folder: Folder) -> bool:
    """Whether a folder such as training_data is the common folder of the splits, and not one of them."""
    splits = read_splits(folder.folders)
    return len({label.word for label in splits.values()}) > 1 and any(
        folder.folders[name].folders for name, label in splits.items() if label.word == "train"
    )


def _refuse_splits_without_train(folder: Folder) -> None:
    splits = {name: label for name, label in read_splits(folder.folders).items() if label.word != "unlabelled"}
    words = {label.word for label in splits.values()}
    # Classes may be called train and dev, but hardly train and test.
    is_pair = "train" in words and bool(words & {"test", "eval"})
    is_all = len(splits) > 1 and len(splits) == len(folder.folders)
    holds_classes = any(len(below_wrappers(folder.folders[name]).folders) > 1 for name in splits)
    if is_pair or is_all or (holds_classes and len(folder.folders) > 1):
        if any(_holds_splits(below_wrappers(inner)) for inner in folder.folders.values()):
            return
        raise DataError(f"splits {listed(splits)}, but no train folder with class folders in it; {EXPECTED}")


def _refuse_strays(folder: Folder, splits: Mapping[str, Word], train: str, classes: Collection[str]) -> None:
    """Refuse images beside the splits."""
    strays = [inner for name, inner in sorted(folder.folders.items()) if name not in splits]
    for stray in strays:
        shared = below_wrappers(stray, classes).folders.keys() & set(classes)
        if shared and stray.images():
            raise _looks_like_splits(stray.name, train, shared)
    outside = [image for stray in strays for image in stray.images()] + folder.loose
    if outside:
        raise DataError(
            f"{examples(outside)} outside the splits {listed(splits)}; move what belongs to no split out of the "
            f"source, and rename {train!r} if it is a class; {EXPECTED}"
        )


def _looks_like_splits(name: str, other: str, shared: Collection[str]) -> DataError:
    return DataError(
        f"folders {name!r} and {other!r} hold the same folders ({listed(shared)}), so that they look like splits of "
        "another name; rename them to train, val and test, or, if they are classes, move their images directly into "
        f"them; {EXPECTED}"
    )


def _one_folder_each(splits: Mapping[str, Word]) -> dict[str, Role]:
    """Decide what eval is, and refuse two folders for one split."""
    evaluation: SplitName = "val" if "test" in splits.values() else "test"
    decided: dict[str, Role] = {name: evaluation if word == "eval" else word for name, word in splits.items()}
    for split in SPLITS:
        names = [name for name, its_split in decided.items() if its_split == split]
        if len(names) > 1:
            raise DataError(f"folders {listed(names)} are all the {split} split; leave one of them, or merge them")
    if any(name.lower() != word for name, word in decided.items()):
        logger.info("splits: %s", ", ".join(f"{name} is {word}" for name, word in decided.items()))
    return decided

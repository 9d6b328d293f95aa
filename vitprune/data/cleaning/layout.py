"""Find the split and the class of each file of an archive from its path.

An archive may hold class folders (``cats/1.jpg``), or splits with class folders in them (``train/cats/1.jpg``). Both
may lie below any number of common folders, and a class may have folders of its own (``cats/images/1.jpg``). As in the
official Tiny-ImageNet, a split may instead hold loose images, or an ``images`` folder, and a ``*_annotations.txt`` with
the class of each file. A test split of loose images without annotations has no labels and is ignored.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from vitprune.core.packed import SPLITS, SplitName
from vitprune.data.cleaning.collection import IgnoredFile, ImageFile, Layout
from vitprune.data.cleaning.images import EXTENSIONS
from vitprune.errors import DataError

SPLIT_FOLDERS: Mapping[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
EXPECTED = (
    "expected are class folders with images (cats/1.jpg), or train, val and test folders with class folders in them "
    "(train/cats/1.jpg), both below any number of common folders"
)

Parts = tuple[str, ...]


@dataclass(frozen=True)
class _File:
    parts: Parts
    position: int

    @property
    def name(self) -> str:
        return "/".join(self.parts)


def is_text_of_interest(name: str) -> bool:
    """Whether ``find_layout`` needs the content of the file of this name."""
    base = name.rsplit("/", 1)[-1]
    return base == "words.txt" or base.endswith("_annotations.txt")


def find_layout(
    files: Sequence[str], folders: Iterable[str], texts: Mapping[str, str], *, links: Iterable[str] = ()
) -> Layout:
    """Put every file in its place.

    ``files`` are paths with forward slashes, and their indices become the images' positions. ``folders`` are the
    folders that have their own entries in the archive. ``texts`` maps the files for which ``is_text_of_interest`` is
    true to their contents. Raises DataError if the class of an image cannot be found.
    """
    ignored = [IgnoredFile(name=name, reason="link") for name in links]
    images: list[_File] = []
    others: list[_File] = []
    for position, name in enumerate(files):
        file = _File(tuple(name.split("/")), position)
        if _is_system(file.parts):
            ignored.append(IgnoredFile(name=name, reason="system file"))
        elif PurePosixPath(name).suffix.lower() in EXTENSIONS:
            images.append(file)
        else:
            others.append(file)
            ignored.append(IgnoredFile(name=name, reason="not an image"))
    if not images:
        raise DataError(f"no images among {len(files)} files; {EXPECTED}")
    root, splits = _find_root(images)
    tree = _Tree(images, others, [parts for name in folders if not _is_system(parts := tuple(name.split("/")))], texts)
    if splits:
        tree.read_splits(root, splits)
    else:
        tree.read_class_folders(root)
    ignored += tree.ignored
    class_folders = sorted(tree.class_folders)
    return Layout(
        images=tuple(sorted(tree.placed, key=lambda image: (image.name, image.position))),
        class_names=_readable_names(class_folders, _find_words(root, texts)),
        ignored=tuple(sorted(ignored, key=lambda file: file.name)),
        empty_folders=tuple(sorted(tree.folders_seen - tree.class_folders)),
    )


def _is_system(parts: Parts) -> bool:
    # Hidden files include macOS's ._1.jpg, which is named like an image but is not one.
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return hidden or parts[-1].lower() in ("thumbs.db", "desktop.ini")


def _children(images: Iterable[_File], depth: int) -> dict[str, list[_File]]:
    """Group images by their folder at this depth; loose images are under the empty name."""
    children: dict[str, list[_File]] = defaultdict(list)
    for image in images:
        children[image.parts[depth] if len(image.parts) > depth + 1 else ""].append(image)
    return children


def _find_root(images: Sequence[_File]) -> tuple[Parts, dict[str, SplitName]]:
    """The folder that holds the splits, or else the class folders; and the splits by the names of their folders."""
    root: Parts = ()
    while True:
        children = _children(images, len(root))
        splits = _split_folders(children, root)
        if splits:
            outside = [image for folder, inside in children.items() if folder not in splits for image in inside]
            if outside:
                raise DataError(f"{_examples(outside)} outside the splits {_listed(splits)}; {EXPECTED}")
            return root, splits
        only = next(iter(children))
        if len(children) > 1 or "" in children or "" in _children(children[only], len(root) + 1):
            return root, {}
        root = (*root, only)


def _split_folders(children: Mapping[str, Sequence[_File]], root: Parts) -> dict[str, SplitName]:
    named = {folder: SPLIT_FOLDERS[folder.lower()] for folder in sorted(children) if folder.lower() in SPLIT_FOLDERS}
    training = [
        folder
        for folder, split in named.items()
        # A class may be called train; unlike a split, it holds images and no class folders.
        if split == "train" and _has_folders_of_images(children[folder], len(root) + 1)
    ]
    if not training:
        if len(named) > 1 and len(named) == len(children):
            raise DataError(f"splits {_listed(named)}, but no train folder with class folders in it; {EXPECTED}")
        return {}
    for split in SPLITS:
        folders = [folder for folder, its_split in named.items() if its_split == split]
        if len(folders) > 1:
            raise DataError(f"folders {_listed(folders)} are all the {split} split; leave one of them, or merge them")
    return named


def _has_folders_of_images(images: Iterable[_File], depth: int) -> bool:
    children = _children(images, depth)
    in_images = _children(children.get("images", []), depth + 1)
    return bool(children.keys() - {"", "images"} or in_images.keys() - {""})


class _Tree:
    """Files, and where each was placed so far."""

    def __init__(
        self, images: Sequence[_File], others: Sequence[_File], folders: Sequence[Parts], texts: Mapping[str, str]
    ) -> None:
        self.images = images
        self.others = others
        self.folders = folders
        self.texts = texts
        self.placed: list[ImageFile] = []
        self.ignored: list[IgnoredFile] = []
        self.class_folders: set[str] = set()
        self.folders_seen: set[str] = set()

    def read_class_folders(self, root: Parts) -> None:
        for image in self.images:
            # A split that was not recognised must neither become a class nor be merged into one.
            inner = {part.lower() for part in image.parts[len(root) + 1 : -1]}
            if inner & SPLIT_FOLDERS.keys():
                raise DataError(f"{_examples([image])} in a split folder that has others beside or above; {EXPECTED}")
        self._place_in_classes("train", self.images, root)

    def read_splits(self, root: Parts, splits: Mapping[str, SplitName]) -> None:
        children = _children(self.images, len(root))
        # Train first: the names of its classes tell a class of another split from a folder of unlabelled images.
        for folder, split in sorted(splits.items(), key=lambda item: SPLITS.index(item[1])):
            images = children[folder]
            inside = (*root, folder)
            kinds = _children(images, len(inside))
            flat = len(kinds) == 1 and (
                "" in kinds
                or (
                    ("images" in kinds and "images" not in self.class_folders)
                    and _children(images, len(inside) + 1).keys() == {""}
                )
            )
            if not flat:
                self._place_in_classes(split, images, self._below_wrappers(images, inside))
            elif (annotations := self._annotations(inside)) is not None:
                self._place_annotated(split, images, *annotations)
            elif split == "test":
                self.ignored += [IgnoredFile(name=image.name, reason="no label") for image in images]
            else:
                raise DataError(
                    f"{_examples(images)} without class folders, and no {folder}_annotations.txt beside; {EXPECTED}"
                )

    def _below_wrappers(self, images: Sequence[_File], inside: Parts) -> Parts:
        """Descend to the class folders of a split, past folders that hold nothing else (``train/train/cats``)."""
        while True:
            children = _children(images, len(inside))
            only = next(iter(children))
            grandchildren = _children(children[only], len(inside) + 1)
            if len(children) > 1 or only in self.class_folders or len(grandchildren) < 2 or "" in grandchildren:
                return inside
            inside = (*inside, only)

    def _place_in_classes(self, split: SplitName, images: Iterable[_File], root: Parts) -> None:
        depth = len(root)
        loose = [image for image in images if len(image.parts) == depth + 1]
        if loose:
            raise DataError(f"{_examples(loose)} outside class folders; {EXPECTED}")
        for image in images:
            self.placed.append(
                ImageFile(name=image.name, split=split, folder=image.parts[depth], position=image.position)
            )
            self.class_folders.add(image.parts[depth])
        for other in self.others:
            if other.parts[:depth] == root and len(other.parts) > depth + 1:
                self.class_folders.add(other.parts[depth])
        self.folders_seen |= {parts[depth] for parts in self.folders if parts[:depth] == root and len(parts) > depth}

    def _annotations(self, inside: Parts) -> tuple[str, str] | None:
        """Name and content of the split's annotations."""
        for name, text in sorted(self.texts.items()):
            if tuple(name.split("/")[:-1]) == inside and name.endswith("_annotations.txt"):
                return name, text
        return None

    def _place_annotated(self, split: SplitName, images: Iterable[_File], name: str, text: str) -> None:
        rows = [line.split("\t") for line in text.removeprefix("\ufeff").splitlines() if line.strip()]
        broken = next((row for row in rows if len(row) < 2 or not row[1].strip()), None)
        if broken is not None:
            raise DataError(f"{name}: a line {broken[0][:80]!r} without a class; each needs FILE<TAB>CLASS")
        folder_of = {row[0].strip(): row[1].strip() for row in rows}
        for image in images:
            if image.parts[-1] not in folder_of:
                raise DataError(f"{name}: has no line for {image.name}; add one, or remove the image")
            folder = folder_of[image.parts[-1]]
            self.placed.append(ImageFile(name=image.name, split=split, folder=folder, position=image.position))
            self.class_folders.add(folder)


def _find_words(root: Parts, texts: Mapping[str, str]) -> dict[str, str]:
    """Read ``words.txt`` beside the splits or class folders, or else in the nearest folder above them."""
    for depth in range(len(root), -1, -1):
        name = "/".join((*root[:depth], "words.txt"))
        if name in texts:
            return _parse_words(texts[name])
    return {}


def _parse_words(text: str) -> dict[str, str]:
    """First name of each WordNet id in a ``words.txt`` (``n01443537<TAB>goldfish, Carassius auratus``)."""
    words = {}
    for line in text.removeprefix("\ufeff").splitlines():
        folder, tab, names = line.partition("\t")
        name = names.split(",")[0].strip()
        if tab and name:
            words[folder.strip()] = name
    return words


def _readable_names(folders: Iterable[str], words: Mapping[str, str]) -> dict[str, str]:
    """A name for each class folder, in the same order; classes with the same name get their folder added to it."""
    names = {folder: words.get(folder, folder) for folder in folders}
    shared = {name for name, count in Counter(names.values()).items() if count > 1}
    return {
        folder: f"{name} ({folder})" if name in shared and name != folder else name for folder, name in names.items()
    }


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _examples(images: Sequence[_File]) -> str:
    more = f" and {len(images) - 1} more images lie" if len(images) > 1 else " lies"
    return f"{images[0].name}{more}"

"""Find the split and the class of each file of an archive from its path.

An archive may hold class folders (``cats/1.jpg``), or splits with class folders in them (``train/cats/1.jpg``). Both
may lie below any number of common folders, and a class may have folders of its own (``cats/images/1.jpg``). As in the
official Tiny-ImageNet, a split may instead hold loose images, or an ``images`` folder, and a ``*_annotations.txt`` with
the class of each file. A test split of loose images without annotations has no labels and is left out.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from vitprune.core.packed import SPLITS, SplitName
from vitprune.data.cleaning.annotations import (
    ANNOTATIONS_ENDING,
    WORDS_FILE,
    Annotations,
    find_annotations,
    find_words,
)
from vitprune.data.cleaning.class_names import readable_names, refuse_twins
from vitprune.data.cleaning.collection import IgnoredFile, ImageFile, Layout
from vitprune.data.cleaning.folders import File, Folder, Parts, build_tree, examples
from vitprune.data.cleaning.kinds import REASONS, counted_endings, kind_of, warn_of_images_left_out
from vitprune.data.cleaning.split_names import Role
from vitprune.data.cleaning.splits import (
    EXPECTED,
    below_wrappers,
    find_root,
    refuse_classes_like_splits,
    refuse_splits_in_classes,
)
from vitprune.data.raw.system_files import is_system_path
from vitprune.errors import DataError

logger = logging.getLogger(__name__)


def is_text_of_interest(name: str) -> bool:
    """Whether ``find_layout`` needs the content of the file of this name."""
    base = name.rsplit("/", 1)[-1]
    return base == WORDS_FILE or base.endswith(ANNOTATIONS_ENDING)


def find_layout(
    files: Sequence[str],
    folders: Iterable[str],
    texts: Mapping[str, str],
    *,
    links: Iterable[str] = (),
    starts: Mapping[int, bytes] | None = None,
) -> Layout:
    """Put every file in its place.

    ``files`` are paths with forward slashes, and their indices become the images' positions. ``folders`` are the
    folders that have their own entries in the archive. ``texts`` maps the files for which ``is_text_of_interest`` is
    true to their contents, and ``starts`` the indices of files that are not named like images to their first bytes.
    Raises DataError if the class of an image cannot be found.
    """
    ignored = [IgnoredFile(name=name, reason="link") for name in links]
    own: list[File] = []
    for position, name in enumerate(files):
        parts = tuple(name.split("/"))
        if is_system_path(parts):
            ignored.append(IgnoredFile(name=name, reason="system file"))
        else:
            own.append(File(parts, position, kind_of(name, (starts or {}).get(position, b""))))
    others = [file for file in own if file.kind != "image"]
    ignored += [IgnoredFile(name=file.name, reason=REASONS[file.kind]) for file in others]
    if len(others) == len(own):
        raise _no_images(len(files), others)
    # What is meant as an image shows the structure too: a test folder of files that are not read is no metadata.
    root, splits = find_root(build_tree(file for file in own if file.kind in ("image", "unread", "unnamed")))
    placing = _Placing(others, [parts for name in folders if not is_system_path(parts := tuple(name.split("/")))])
    if splits:
        _place_splits(placing, root, splits, texts)
    else:
        refuse_splits_in_classes(root.folders.values())
        refuse_classes_like_splits(root.folders.values())
        placing.place_in_classes("train", root)
    refuse_twins(placing.class_folders)
    warn_of_images_left_out([(file.name, file.kind) for file in others])
    return Layout(
        images=tuple(sorted(placing.placed, key=lambda image: (image.name, image.position))),
        class_names=readable_names(sorted(placing.class_folders), find_words(root.parts, texts)),
        ignored=tuple(sorted(ignored + placing.ignored, key=lambda file: file.name)),
        empty_folders=tuple(sorted(placing.folders_seen - placing.class_folders)),
    )


def _no_images(total: int, others: Sequence[File]) -> DataError:
    unread = [file.name for file in others if file.kind != "other"]
    if unread:
        return DataError(
            f"no images of formats that are read among {total} files, but {counted_endings(unread)} (such as "
            f"{min(unread)}); convert them to PNG or JPEG and name them so"
        )
    system = f", {total - len(others)} of them hidden or of the system" if len(others) < total else ""
    return DataError(f"no images among {total} files{system}; {EXPECTED}")


def _unread(folder: str, names: Sequence[str]) -> DataError:
    return DataError(
        f"{folder}: holds no images of formats that are read, but {counted_endings(names)}; convert them to PNG or "
        "JPEG and name them so, or remove the folder"
    )


def _place_splits(placing: _Placing, root: Folder, splits: Mapping[str, Role], texts: Mapping[str, str]) -> None:
    depth = len(root.parts)
    for parts in placing.folders:
        if parts[:depth] == root.parts and len(parts) == depth + 1 and parts[-1] not in root.folders:
            logger.warning("%s: holds no images, and is left out", "/".join(parts))
    order = (*SPLITS, "unlabelled")
    # Train first: the names of its classes tell a class of another split from a folder of unlabelled images.
    for name, split in sorted(splits.items(), key=lambda item: order.index(item[1])):
        folder = root.folders[name]
        core = below_wrappers(folder, placing.class_folders)
        places = [core.parts[:depth] for depth in range(len(folder.parts), len(core.parts) + 1)]
        annotations = find_annotations(places, texts)
        if split == "unlabelled" or (core.is_flat and annotations is None and split == "test"):
            placing.leave_out(core)
        elif not core.is_flat:
            refuse_splits_in_classes(core.folders.values())
            placing.place_in_classes(split, core, annotations)
        elif annotations is not None:
            placing.place_annotated(split, core, annotations)
        else:
            raise DataError(
                f"{examples(core.files)} without class folders, and no {name}_annotations.txt beside; {EXPECTED}"
            )


class _Placing:
    """Where each file was placed so far."""

    def __init__(self, others: Sequence[File], folders: Sequence[Parts]) -> None:
        self.others = others
        self.folders = folders
        self.placed: list[ImageFile] = []
        self.ignored: list[IgnoredFile] = []
        self.class_folders: set[str] = set()
        self.folders_seen: set[str] = set()

    def place_in_classes(self, split: SplitName, root: Folder, annotations: Annotations | None = None) -> None:
        """Put the images of each folder in ``root`` into the class of its name."""
        depth = len(root.parts)
        if root.loose:
            raise DataError(f"{examples(root.loose)} outside class folders; {EXPECTED}")
        folder_of = {image: name for name, folder in root.folders.items() for image in folder.images()}
        if annotations is not None:
            annotations.check_folders(folder_of)
        for image, folder in folder_of.items():
            self._place(image, split, folder)
        unread: dict[str, list[str]] = defaultdict(list)
        for other in self.others:
            if other.parts[:depth] == root.parts and len(other.parts) > depth + 1:
                self.class_folders.add(other.parts[depth])
                if other.kind != "other":
                    unread[other.parts[depth]].append(other.name)
        for folder in sorted(unread.keys() - set(folder_of.values())):
            raise _unread("/".join((*root.parts, folder)), unread[folder])
        self.folders_seen |= {
            parts[depth] for parts in self.folders if parts[:depth] == root.parts and len(parts) > depth
        }

    def place_annotated(self, split: SplitName, folder: Folder, annotations: Annotations) -> None:
        """Put the images of a folder into the classes that the annotations name."""
        annotations.check_files(folder.loose)
        if not folder.loose:
            raise _unread("/".join(folder.parts), [file.name for file in folder.files])
        for image in folder.loose:
            self._place(image, split, annotations.folder_of[image.parts[-1]])

    def leave_out(self, folder: Folder) -> None:
        """Leave out the images of a folder that have no labels."""
        images = folder.images()
        if images:
            logger.warning("%s: left out, because its images (%d) have no labels", "/".join(folder.parts), len(images))
        self.ignored += [IgnoredFile(name=image.name, reason="no label") for image in images]

    def _place(self, image: File, split: SplitName, folder: str) -> None:
        self.placed.append(ImageFile(name=image.name, split=split, folder=folder, position=image.position))
        self.class_folders.add(folder)

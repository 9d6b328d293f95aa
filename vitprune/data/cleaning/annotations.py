"""The text files of a source that name classes: ``val_annotations.txt`` and ``words.txt`` of Tiny-ImageNet."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vitprune.data.cleaning.folders import File, Parts
from vitprune.data.raw.names import readable
from vitprune.errors import DataError

logger = logging.getLogger(__name__)

WORDS_FILE = "words.txt"
ANNOTATIONS_ENDING = "_annotations.txt"


@dataclass(frozen=True)
class Annotations:
    """The class folder of each file of a split, by the names that the text file ``name`` gives."""

    name: str
    folder_of: Mapping[str, str]

    def check_files(self, images: Iterable[File]) -> None:
        """Refuse an image without a line, and say which lines have no image."""
        present = {image.parts[-1]: image for image in images}
        for file, image in present.items():
            if file not in self.folder_of:
                raise DataError(f"{self.name}: has no line for {image.name}; add one, or remove the image")
        missing = sorted(self.folder_of.keys() - present.keys())
        if missing:
            logger.warning("%s names files that are not there: %d, such as %s", self.name, len(missing), missing[0])

    def check_folders(self, folder_of: Mapping[File, str]) -> None:
        """Refuse an image that lies in one class folder and is annotated with another."""
        classes = set(folder_of.values())
        counts = Counter(image.parts[-1] for image in folder_of)
        for image, folder in folder_of.items():
            annotated = self.folder_of.get(image.parts[-1], folder)
            # What has the same name in several class folders cannot be told apart by the annotations.
            if annotated != folder and annotated in classes and counts[image.parts[-1]] == 1:
                raise DataError(
                    f"{self.name}: says {annotated!r} of {image.name}, which lies in the class folder {folder!r}; "
                    "correct the line, or move the image"
                )


def find_annotations(places: Sequence[Parts], texts: Mapping[str, str]) -> Annotations | None:
    """The annotations that lie in one of these folders. Raises DataError if there are several, or as reading them."""
    names = [
        name for name in sorted(texts) if name.endswith(ANNOTATIONS_ENDING) and tuple(name.split("/")[:-1]) in places
    ]
    if len(names) > 1:
        raise DataError(f"{names[0]} and {names[1]} both annotate the same split; leave one of them")
    return Annotations(names[0], _read_annotations(names[0], texts[names[0]])) if names else None


def _read_annotations(name: str, text: str) -> dict[str, str]:
    folder_of: dict[str, str] = {}
    for line in _lines(text):
        file, *others = (column.strip() for column in line.split("\t"))
        if not (others and others[0]):
            raise DataError(f"{name}: a line {file[:80]!r} without a class; each needs FILE<TAB>CLASS")
        if folder_of.setdefault(file, others[0]) != others[0]:
            raise DataError(f"{name}: {file!r} has two classes, {folder_of[file]!r} and {others[0]!r}; leave one line")
    return folder_of


def find_words(root: Parts, texts: Mapping[str, str]) -> dict[str, str]:
    """Read ``words.txt`` beside the splits or class folders, or else in the nearest folder above them."""
    for depth in range(len(root), -1, -1):
        name = "/".join((*root[:depth], WORDS_FILE))
        if name in texts:
            return _read_words(name, texts[name])
    return {}


def _read_words(name: str, text: str) -> dict[str, str]:
    """First name of each WordNet id in a ``words.txt`` (``n01443537<TAB>goldfish, Carassius auratus``)."""
    words: dict[str, str] = {}
    for line in _lines(text):
        identifier, _, names = line.partition("\t")
        folder, word = identifier.strip(), names.split(",")[0].strip()
        if word and words.setdefault(folder, word) != word:
            raise DataError(f"{name}: {folder!r} has two names, {words[folder]!r} and {word!r}; leave one line")
    return words


def _lines(text: str) -> list[str]:
    """The lines that hold something. A name may hold what ``str.splitlines`` takes for the end of a line."""
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return ["\t".join(map(readable, line.split("\t"))) for line in lines if line.strip()]

"""The folders of a source as a tree, with the files in them that are images or are meant as such."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from vitprune.data.cleaning.kinds import Kind

Parts = tuple[str, ...]


@dataclass(frozen=True)
class File:
    """A file of the source; ``position`` is its place there."""

    parts: Parts
    position: int
    kind: Kind

    @property
    def name(self) -> str:
        return "/".join(self.parts)


@dataclass
class Folder:
    """A folder: the files directly in it, and the folders in it that hold files at any depth."""

    parts: Parts
    files: list[File] = field(default_factory=list)
    folders: dict[str, Folder] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.parts[-1] if self.parts else ""

    @property
    def loose(self) -> list[File]:
        """The images directly in it."""
        return [file for file in self.files if file.kind == "image"]

    def walk(self) -> Iterator[Folder]:
        """This folder and all folders below it."""
        yield self
        for name in sorted(self.folders):
            yield from self.folders[name].walk()

    def images(self) -> list[File]:
        """All images in it, at any depth."""
        return [file for folder in self.walk() for file in folder.loose]

    @property
    def is_flat(self) -> bool:
        """Whether it holds files and no class folders."""
        return bool(self.files) and not self.folders


def build_tree(files: Iterable[File]) -> Folder:
    """The folder above all of these files."""
    top = Folder(())
    for file in files:
        folder = top
        for depth, part in enumerate(file.parts[:-1], start=1):
            inner = folder.folders.get(part)
            if inner is None:
                inner = folder.folders[part] = Folder(file.parts[:depth])
            folder = inner
        folder.files.append(file)
    return top


def examples(files: list[File]) -> str:
    """The first file and how many more there are, as the start of a sentence: ``1.png and 2 more images lie``."""
    more = f" and {len(files) - 1} more images lie" if len(files) > 1 else " lies"
    return f"{files[0].name}{more}"


def listed(names: Iterable[str], most: int = 5) -> str:
    """Names for a sentence, not more than ``most`` of them."""
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more

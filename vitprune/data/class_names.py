"""Readable names for classes whose folders carry WordNet ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping


def parse_words(text: str) -> dict[str, str]:
    """First name of each id in a ``words.txt`` (``n01443537<TAB>goldfish, Carassius auratus``)."""
    words = {}
    for line in text.removeprefix("\ufeff").splitlines():
        folder, tab, names = line.partition("\t")
        name = names.split(",")[0].strip()
        if tab and name:
            words[folder.strip()] = name
    return words


def readable_names(folders: Iterable[str], words: Mapping[str, str]) -> dict[str, str]:
    """A name for each class folder, in the same order; where two would share one, the folder is added to it."""
    names = {folder: words.get(folder, folder) for folder in folders}
    shared = {name for name, count in Counter(names.values()).items() if count > 1}
    return {
        folder: f"{name} ({folder})" if name in shared and name != folder else name for folder, name in names.items()
    }

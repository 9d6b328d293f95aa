"""Names of classes: a readable one for each class folder, and none that look alike."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping

from vitprune.errors import DataError


def refuse_twins(folders: Iterable[str]) -> None:
    """Raise DataError if the names of two class folders differ only in case or spaces.

    Some file systems take them for one folder; where they do not, one class would be learned as two.
    """
    first: dict[str, str] = {}
    for folder in sorted(folders):
        twin = first.setdefault(_look(folder), folder)
        if twin != folder:
            raise DataError(
                f"class folders {twin!r} and {folder!r} differ only in case, spaces or invisible characters; if they "
                "are one class, put their images into one folder, and otherwise rename one of them"
            )


def _look(name: str) -> str:
    visible = "".join(char for char in name if unicodedata.category(char) != "Cf")
    # Windows drops full stops at the end too.
    return unicodedata.normalize("NFC", re.sub(r"\s+", " ", visible).strip(" .").lower())


def readable_names(folders: Iterable[str], words: Mapping[str, str]) -> dict[str, str]:
    """A name for each class folder, in the same order; classes with the same name get their folder added to it."""
    names = {folder: words.get(folder, folder) for folder in folders}
    shared = {name for name, count in Counter(names.values()).items() if count > 1}
    return {
        folder: f"{name} ({folder})" if name in shared and name != folder else name for folder, name in names.items()
    }

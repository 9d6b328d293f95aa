"""What the name of a folder says about its split: ``train``, ``seg_test``, ``ValidationSet`` or ``train2017``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vitprune.core.packed import SplitName

Role = SplitName | Literal["unlabelled"]
Word = Role | Literal["eval"]
"""``eval`` is what some data sets call the validation split, and others the test split."""

_STEMS: Mapping[str, Word] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "eval": "eval",
    "evaluation": "eval",
}
_GLUED = ("set", "data", "dataset", "images", "dir", "folder", "split")
_WORDS: Mapping[str, Word] = {
    **_STEMS,
    # trainset, testdata and the like are written in one word.
    **{stem + glued: word for stem, word in _STEMS.items() for glued in _GLUED},
    "trainval": "train",
    **dict.fromkeys(
        ["pred", "preds", "predict", "prediction", "predictions", "infer", "inference", "submission"], "unlabelled"
    ),
    **dict.fromkeys(["unlabelled", "unlabeled"], "unlabelled"),
}
_NEUTRAL = re.compile("sets?|data|dataset|splits?|subset|images?|imgs?|photos|pictures|files|folder|dir|[0-9]+")
_EDGES = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=\D)(?=\d)|(?<=\d)(?=\D)")
_TOKENS = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class SplitLabel:
    """The split that a name speaks of, and the other words in it that mean something (``seg`` in ``seg_test``)."""

    word: Word
    rest: frozenset[str]


def read_split(name: str) -> SplitLabel | None:
    """The split that a folder's name speaks of, in any case; None if it speaks of none, or of several."""
    for text in (_EDGES.sub(" ", name), name):
        tokens = _TOKENS.findall(text.lower())
        words = {_WORDS[token] for token in tokens if token in _WORDS}
        if words == {"train", "val"}:
            words = {"train"}
        if "unlabelled" in words:
            # test_unlabelled has no labels either.
            words = {"unlabelled"}
        if len(words) == 1:
            rest = {token for token in tokens if token not in _WORDS and not _NEUTRAL.fullmatch(token)}
            return SplitLabel(words.pop(), frozenset(rest))
    return None


def read_splits(names: Mapping[str, object]) -> dict[str, SplitLabel]:
    """Of these folders, those whose names speak of splits and mean nothing else.

    A name may say more if the name of another split says the same: ``seg_train`` and ``seg_test`` do, ``train`` and
    ``test tube`` do not.
    """
    labels = {name: label for name in sorted(names) if (label := read_split(name)) is not None}
    return {
        name: label
        for name, label in labels.items()
        if not label.rest or any(label.rest == other.rest for other in labels.values() if other.word != label.word)
    }

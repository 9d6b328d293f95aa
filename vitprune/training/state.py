"""The state of a training run between two steps, saved in a file so that an interrupted run can go on.

The file is a safetensors file, one of whose tensors holds the numbers as JSON, followed by the SHA-256 of all that.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from vitprune.errors import TrainingError
from vitprune.storage import atomic_file, sha256_of

FORMAT = 4
DIGEST_BYTES = hashlib.sha256().digest_size
CONTENT = "content"
"""The name of the tensor that holds the bytes of the JSON."""
ZIP = b"PK"
"""How the states of formats 1 to 3 begin."""


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """Tensors by name, and numbers and text in dicts and lists."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


class StateFile:
    """The file of a run's state, to be written every few ``minutes``; ``identity`` tells this run from others."""

    def __init__(self, path: Path, identity: dict[str, Any], minutes: float) -> None:
        self.path, self.minutes = path, minutes
        self.identity = {name: str(value) for name, value in identity.items()}
        self._saved_at = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether ``minutes`` have passed since the last save."""
        return time.monotonic() - self._saved_at >= 60 * self.minutes

    def save(self, state: State) -> None:
        """Replace the saved state, atomically. Raises StorageError if it cannot be written."""
        content = {"format": FORMAT, "identity": self.identity, "numbers": state.numbers}
        tensors = {name: tensor.detach().contiguous() for name, tensor in state.tensors.items()}
        tensors[CONTENT] = torch.frombuffer(bytearray(json.dumps(content, allow_nan=False).encode()), dtype=torch.uint8)
        with atomic_file(self.path) as partial:
            save_file(tensors, partial)
            digest = bytes.fromhex(sha256_of(partial))
            with partial.open("ab") as file:
                file.write(digest)
        self._saved_at = time.monotonic()

    def load(self) -> State | None:
        """The state of an interrupted run with its tensors on the CPU, or None if there is no file.

        Raises TrainingError if the file is broken, or the state of another run or another version of vitprune.
        """
        if not self.path.exists():
            return None
        try:
            whole = self.path.read_bytes()
        except OSError as error:
            raise self.refusal(f"not readable ({error.strerror})") from None
        if whole.startswith(ZIP):
            raise self.refusal("was written by an earlier version of vitprune")
        payload = whole[:-DIGEST_BYTES]
        if hashlib.sha256(payload).digest() != whole[-DIGEST_BYTES:]:
            raise self.refusal("not the state of a training run, or not as it was saved")
        try:
            tensors = load(payload)
            content = json.loads(tensors.pop(CONTENT).numpy().tobytes())
            file_format, saved_identity, numbers = content["format"], content["identity"], content["numbers"]
        except (SafetensorError, ValueError, TypeError, KeyError) as error:
            raise self.refusal(f"not the state of a training run ({error})") from None
        if file_format != FORMAT:
            raise self.refusal(f"was written by another version of vitprune (format {file_format})")
        self._check_identity(saved_identity)
        return State(tensors=tensors, numbers=numbers)

    def _check_identity(self, saved: dict[str, str]) -> None:
        # This run's identity comes first: in it, what a user sets precedes the digests that follow from it.
        for name in {**self.identity, **saved}:
            now, then = self.identity.get(name), saved.get(name)
            if now != then:
                raise self.refusal(
                    f"is the state of an interrupted run with another configuration ({name} {then}, now {now}); finish "
                    "that run with its own params",
                    link=", or ",
                )

    def refusal(self, reason: str, *, link: str = "; ") -> TrainingError:
        """The error that says why the saved state is not used, and what to do."""
        return TrainingError(f"{self.path}: {reason}{link}delete {self.path} to start this run from the beginning")


def check_tensors(expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """Raise ValueError unless tensors have the names, shapes and number formats of others, and are finite."""
    _check_names(expected, found)
    for name, tensor in expected.items():
        like, other = (f"{list(each.shape)} {each.dtype}" for each in (tensor, found[name]))
        if like != other:
            raise ValueError(f"{name} is {other} instead of {like}")
        if not bool(found[name].isfinite().all()):
            raise ValueError(f"{name} is not finite")


def check_numbers(expected: dict[str, Any], found: Any, name: str = "numbers") -> None:
    """Raise ValueError unless numbers have the names and types of others, are finite and not negative."""
    if not isinstance(found, dict):
        raise ValueError(f"{name} are missing")
    _check_names(expected, found)
    for key, value in expected.items():
        if isinstance(value, dict):
            check_numbers(value, found[key], key)
        elif type(found[key]) is not type(value) or not 0 <= found[key] < math.inf:
            raise ValueError(f"{key} is {found[key]!r}")


def _check_names(expected: Iterable[str], found: Iterable[str]) -> None:
    """Raise ValueError that names what is missing or too much."""
    missing, extra = sorted({*expected} - {*found}), sorted({*found} - {*expected})
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    if extra:
        raise ValueError(f"{extra[0]} is unknown")

"""Why a run on several processes failed: each rank records its error, and the process that started them says the first.

When one rank fails, the others lose their connection to it and fail as well. Their errors say nothing.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vitprune.errors import VitpruneError

LAUNCHER = "VITPRUNE_LAUNCHER"
"""The environment variable in which ranks find the process number of their launcher, which may set it for itself."""
LOST_CONNECTION = re.compile(r"by peer|gloo|nccl|process group|broken pipe", re.IGNORECASE)
"""What errors of ranks say whose connection to another rank broke."""
PASSED_ON = {-int(signal.SIGTERM), -int(signal.SIGINT)}
"""Exit statuses of ranks that the others' end has ended: the launcher sends them these signals."""


def launcher() -> int | None:
    """The number of the process that started this one as a rank, if one did."""
    number = os.environ.get(LAUNCHER, "")
    return int(number) if number.isdecimal() and int(number) != os.getpid() else None


class Sentence(VitpruneError):
    """An error whose message is meant for the user, in the record of a rank."""


def record_failure(error: Exception) -> None:
    """Tell the launcher of this rank why it failed."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    get_error_handler().record_exception(error)


@dataclass(frozen=True)
class _Failure:
    """The error that a rank recorded, and when it did."""

    rank: int
    time: int
    kind: str
    message: str
    place: str

    @property
    def is_lost_connection(self) -> bool:
        return self.kind != Sentence.__name__ and bool(LOST_CONNECTION.search(self.message))

    def sentence(self, size: int) -> str:
        if self.kind == Sentence.__name__:
            return self.message
        return f"process {self.rank} of {size} failed ({self.kind}: {self.message}{self.place})"


def first_failure(folder: Path, statuses: Mapping[int, int], size: int) -> str:
    """One sentence on the failure that came first among ``size`` ranks with these exit statuses.

    torch's launcher gives each rank a folder named after it below ``folder``, for its output and its error.
    """
    found = map(_recorded, folder.rglob("error.json"))
    recorded = sorted((failure for failure in found if failure), key=lambda failure: failure.time)
    for failure in recorded:
        if not failure.is_lost_connection:
            return failure.sentence(size)
    for rank, status in sorted(statuses.items()):
        if status < 0 and status not in PASSED_ON:
            return f"process {rank} of {size} was ended by {signal.Signals(-status).name}{_hint(status)}"
    for rank, status in sorted(statuses.items()):
        if status > 0 and rank not in {failure.rank for failure in recorded}:
            return f"process {rank} of {size} ended with status {status}{_last_words(folder, rank)}"
    if recorded:
        return recorded[0].sentence(size)
    rank, status = min(statuses.items())
    return f"process {rank} of {size} was ended by {signal.Signals(-status).name}"


def _hint(status: int) -> str:
    if status != -signal.SIGKILL:
        return ""
    return ", as the system does when memory runs out; if so, lower compute.processes or the batch sizes"


def _last_words(folder: Path, rank: int) -> str:
    """The last line that a rank wrote to stderr. That of the first rank was seen already."""
    text = "".join(path.read_text("utf-8", "replace") for path in folder.rglob(f"{rank}/stderr.log"))
    said = [line.strip() for line in text.splitlines() if line.strip()]
    return f" ({said[-1]})" if said else ""


def _recorded(path: Path) -> _Failure | None:
    """What a rank has recorded, or None if it was ended in the middle of that."""
    try:
        content = json.loads(path.read_text("utf-8"))["message"]
    except ValueError:
        return None
    kind, _, message = content["message"].partition(": ")
    frames = re.findall(r'File "(.*?)", line (\d+)', content["extraInfo"]["py_callstack"])
    return _Failure(
        rank=int(path.parent.name),
        time=path.stat().st_mtime_ns,
        kind=kind,
        message=" ".join(message.split()),
        place=f", {frames[-1][0]} line {frames[-1][1]}" if frames else "",
    )

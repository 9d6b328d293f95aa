"""Read mutated files within limits of time and memory, and tell the outcomes apart."""

import random
import shutil
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType

from tests.fuzz.mutations import mutate
from tests.fuzz.readers import Reader
from vitprune.errors import VitpruneError

SECONDS = 5.0


class Outcome(StrEnum):
    """What came of reading a mutated file."""

    REFUSED = "refused"
    READ = "read"
    FOREIGN = "foreign"
    HANG = "hang"
    SILENT = "silent"


FAULTS = (Outcome.FOREIGN, Outcome.HANG, Outcome.SILENT)


class HangError(BaseException):
    """Reading took too long. No reader catches it."""


@contextmanager
def limited_time(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise HangError

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def fuzz(reader: Reader, folder: Path, count: int, seed: int) -> tuple[Counter[Outcome], list[str]]:
    """Mutate one file of a reader's sample ``count`` times; returns the outcomes and a line about each fault."""
    original, mutated = folder / "original", folder / "mutated"
    original.mkdir()
    reader.write(original)
    reader.read(original)
    files = sorted(path.relative_to(original) for path in original.rglob("*") if path.is_file())
    outcomes: Counter[Outcome] = Counter()
    faults = []
    for number in range(count):
        chance = random.Random(f"{reader.name} {seed + number}")
        shutil.copytree(original, mutated)
        file = chance.choice(files)
        (mutated / file).write_bytes(mutate((original / file).read_bytes(), chance))
        outcome, reason = _outcome(reader, mutated)
        outcomes[outcome] += 1
        if outcome in FAULTS:
            faults.append(f"{outcome}: {file}, seed {seed + number}{reason}")
        shutil.rmtree(mutated)
    shutil.rmtree(original)
    return outcomes, faults


def _outcome(reader: Reader, folder: Path) -> tuple[Outcome, str]:
    try:
        with limited_time(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(folder)
    except VitpruneError:
        return Outcome.REFUSED, ""
    except HangError:
        return Outcome.HANG, ""
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return Outcome.FOREIGN, f": {error!r:.100} in {Path(place.filename).name}:{place.lineno}"
    return (Outcome.SILENT if reader.is_ours else Outcome.READ), ""

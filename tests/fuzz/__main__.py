"""Mutate the files of every reader, and count what comes of it.

    python -m tests.fuzz --mutations 10000

Takes about ten minutes on two cores. A mutated file may be refused with a VitpruneError, or read where it is the
user's own. Foreign exceptions, reading for more than five seconds, and changes of vitprune's own files that are not
noticed are faults: each is printed with its seed, by which ``--seed`` repeats it, and the exit status is 1.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.fuzz.fuzzing import FAULTS, Outcome, fuzz
from tests.fuzz.readers import READERS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    totals: Counter[Outcome] = Counter()
    sys.stdout.write(f"{'':24}" + "".join(f"{outcome:>10}" for outcome in Outcome) + "\n")
    for number, reader in enumerate(READERS):
        # The last readers share what does not divide evenly.
        count = arguments.mutations // len(READERS) + (number < arguments.mutations % len(READERS))
        with tempfile.TemporaryDirectory() as folder:
            counts, faults = fuzz(reader, Path(folder), count, arguments.seed)
        totals += counts
        sys.stdout.write(f"{reader.name:24}" + "".join(f"{counts[outcome]:10}" for outcome in Outcome) + "\n")
        sys.stdout.writelines(f"    {fault}\n" for fault in faults)
        sys.stdout.flush()
    sys.stdout.write(f"{'all':24}" + "".join(f"{totals[outcome]:10}" for outcome in Outcome) + "\n")
    return int(any(totals[outcome] for outcome in FAULTS))


if __name__ == "__main__":
    sys.exit(main())

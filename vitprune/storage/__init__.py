"""Files and folders that appear whole or not at all, whose changes are noticed, and the JSON that goes into them."""

from vitprune.storage.mark import MARK, check_unchanged
from vitprune.storage.reading import read_json, sha256_of
from vitprune.storage.targets import check_targets
from vitprune.storage.writing import atomic_file, atomic_folder, remove, write_json, write_text

__all__ = [
    "MARK",
    "atomic_file",
    "atomic_folder",
    "check_targets",
    "check_unchanged",
    "read_json",
    "remove",
    "sha256_of",
    "write_json",
    "write_text",
]

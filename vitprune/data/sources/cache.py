"""Where half-finished downloads wait to be resumed, outside of what DVC deletes before a stage."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """The user's cache folder for vitprune, or what the environment variable VITPRUNE_CACHE names; it may not exist."""
    named = os.environ.get("VITPRUNE_CACHE")
    return Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("vitprune"))

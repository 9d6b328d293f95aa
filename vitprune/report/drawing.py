"""Figures that become PNG or SVG files, whatever the names in them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from vitprune.storage import atomic_file

DOTS_PER_INCH = 120


def shortened(name: str, length: int) -> str:
    """The name, or its beginning if it is longer than ``length`` characters."""
    return name if len(name) <= length else f"{name[: length - 1]}…"


@contextmanager
def drawn(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """Yield an empty figure of ``size`` (width, height) in inches; what is drawn in it becomes a PNG, or an SVG if
    ``path`` ends so.

    Equal input gives equal bytes. Names are drawn as they are: dollar signs enclose no mathematics, and a character
    that the font lacks is a box.
    """
    is_svg = path.suffix == ".svg"
    # Without the library's version and the date, and with names that do not depend on chance, equal images are equal
    # bytes.
    nothing = {"Date": None, "Creator": None} if is_svg else {"Software": None}
    with rc_context({"text.parse_math": False, "svg.hashsalt": "vitprune"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*missing from font")
        # Not pyplot's figure: this one changes nothing global and needs no display.
        figure = Figure(figsize=size, dpi=DOTS_PER_INCH, layout="constrained")
        yield figure
        with atomic_file(path) as partial:
            figure.savefig(partial, format="svg" if is_svg else "png", metadata=nothing)

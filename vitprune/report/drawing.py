"""Figures that become PNG or SVG files, whatever the names in them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from vitprune.storage import atomic_file

DOTS_PER_INCH = 120
_PLACES = [(1, -1), (1, 1), (-1, -1), (-1, 1), (0, -1), (0, 1), (1, -4), (1, 4), (-1, -4), (-1, 4), (1, -7), (1, 7)]
"""Where a label may stand, right and up from its point; the first that is free is taken."""


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


def put_labels(axes: Axes, labels: Sequence[tuple[str, float, float]]) -> None:
    """Write each text beside its point ``(x, y)``, where it overlaps no other and stays within the frame if it can.

    The limits of the axes must be final, and the figure drawn once.
    """
    frame = axes.get_window_extent()
    points = [axes.transData.transform((x, y)) for _, x, y in labels]
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in points]
    for text, x, y in labels:
        best: tuple[float, Annotation, Bbox] | None = None
        for across, down in _PLACES:
            label = axes.annotate(
                text,
                (x, y),
                textcoords="offset points",
                xytext=(8 * across, 8 * down),
                ha=("right", "center", "left")[across + 1],
                va=("top", "center", "bottom")[int(down > 0) - int(down < 0) + 1],
                fontsize=8,
            )
            box = label.get_window_extent()
            bad = sum(_overlap(box, other) for other in taken) + box.width * box.height - _overlap(box, frame)
            if best is not None and bad >= best[0]:
                label.remove()
                continue
            if best is not None:
                best[1].remove()
            best = (bad, label, box)
        assert best is not None
        taken.append(best[2])


def _overlap(one: Bbox, other: Bbox) -> float:
    """The area that two boxes share."""
    shared = Bbox.intersection(one, other)
    return 0.0 if shared is None else float(shared.width * shared.height)

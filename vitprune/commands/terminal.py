"""What a person sees of a command: log lines, tables, and one sentence when it fails."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table as RichTable
from rich.text import Text

from vitprune.core.compute.failures import launcher
from vitprune.data.raw.names import escaped
from vitprune.errors import VitpruneError

if TYPE_CHECKING:
    from vitprune.evaluation.table import Table

stderr = Console(stderr=True)
# Where there is no terminal, rich would squeeze a table into 80 columns.
console = Console(width=None if sys.stdout.isatty() else 110)

QUIET = "VITPRUNE_QUIET"
"""The environment variable that, set to anything, leaves warnings and errors alone on stderr."""
AS_JSON = "VITPRUNE_JSON"
"""The environment variable that, set to anything, makes tables on stdout JSON."""


def set_up_logging() -> None:
    """Show the library's log lines: through rich on a terminal, plainly elsewhere.

    A character that the encoding of a stream lacks is written as its escape.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler: logging.Handler
    if stderr.is_terminal:
        handler = RichHandler(console=stderr, show_path=False, show_level=False, show_time=False)
    else:
        handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(lambda _: speaks())
    logger = logging.getLogger("vitprune")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.WARNING if is_quiet() else logging.INFO)


def is_quiet() -> bool:
    """Whether the user wants to hear of nothing but trouble."""
    return QUIET in os.environ


def speaks() -> bool:
    """Whether this process talks to the user: of several ranks, the first does."""
    # Not imported for this question: torch comes with it, and costs every command two seconds.
    distributed = sys.modules.get("vitprune.core.compute.distributed")
    return distributed is None or bool(distributed.world().is_main)


@contextmanager
def report_errors() -> Iterator[None]:
    """Turn an error meant for the user into one line on stderr and exit status 1, an interrupt into status 130."""
    try:
        yield
    except VitpruneError as error:
        _complain(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    except Exception as error:
        if _is_out_of_memory(error):
            _complain(
                "the machine or device ran out of memory; set acdc.batch_size or prune.batch_size, which bound the "
                "images held at once, or lower evaluate.batch_size or evaluate.timing_batch_sizes, or set "
                "compute.device to cpu"
            )
        elif launcher() is not None:
            from vitprune.core.compute.failures import record_failure

            record_failure(error)
        else:
            raise
        sys.exit(1)


def _is_out_of_memory(error: Exception) -> bool:
    # By its name, because importing torch to catch it would cost every command two seconds. On a CPU it has none.
    by_torch = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and by_torch)


def _complain(message: str) -> None:
    """Say what is wrong; a rank leaves that to the process that started it."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        # Imported for ranks alone, because torch comes with it.
        from vitprune.core.compute.failures import Sentence, record_failure

        record_failure(Sentence(message))
    if launcher() is None:
        sys.stderr.write(f"error: {message}\n")
        sys.stderr.flush()


def show_table(table: Table, *, is_wide: bool = False) -> None:
    """Print a table with its caption on stdout; one that is wide with a column for each of its rows."""
    if AS_JSON in os.environ:
        rows = [dict(zip(table.headers, row, strict=True)) for row in table.rows]
        sys.stdout.write(json.dumps({"rows": rows, "caption": table.caption}, ensure_ascii=False, indent=2) + "\n")
        return
    # Five columns fit a terminal, fourteen would not.
    lines = list(zip(table.headers, *table.rows, strict=True)) if is_wide else [table.headers, *table.rows]
    # As text, because rich would take brackets in names for markup.
    headers, *others = [[Text(escaped(cell)) for cell in row] for row in lines]
    drawn = RichTable(caption=Text(table.caption) if table.caption else None, caption_justify="left")
    for number, header in enumerate(headers):
        drawn.add_column(header, justify="right" if number else "left")
    for row in others:
        drawn.add_row(*row)
    console.print(drawn)

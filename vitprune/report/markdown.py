"""Tables as Markdown, and their place in a Markdown file."""

from __future__ import annotations

from pathlib import Path

from vitprune.errors import DataError
from vitprune.evaluation.table import Table
from vitprune.storage import write_text


def to_markdown(table: Table) -> str:
    """The table with its caption below. All columns but the first are aligned to the right."""
    lines = [table.headers, ("---", *["---:"] * (len(table.headers) - 1)), *table.rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + f"\n\n{table.caption}\n"


def fill(path: Path, name: str, content: str) -> None:
    """Replace the text between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->`` in a file.

    Raises DataError if the file or one of the two marks is missing.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the Markdown file that the table belongs into")
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not a text file in UTF-8 ({error.reason})") from error
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise DataError(f"{path}: needs one line {begin} and after it one line {end}; add them where the table belongs")
    before, rest = text.split(begin)
    _, after = rest.split(end)
    write_text(path, f"{before}{begin}\n{content}\n{end}{after}")

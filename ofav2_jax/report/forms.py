"""Tables for a terminal and for Markdown, of cells that may come from the files of a run."""

import html
from collections.abc import Iterator, Sequence


def printable(text: str) -> str:
    """Text without control characters, which a terminal obeys."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def markdown(text: str) -> str:
    """Text in Markdown, which may hold HTML and in whose tables "|" ends a cell."""
    return html.escape(text, quote=False).replace("|", "\\|")


def aligned(lines: Sequence[Sequence[str]], num_left: int) -> Iterator[str]:
    """The lines of a table for a terminal.

    Args:
        lines: the cells of each line, the first of which is the head.
        num_left: the number of columns that are aligned at the left; the others hold numbers.
    """
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        left = [cell.ljust(width) for cell, width in zip(line[:num_left], widths)]
        right = [cell.rjust(width) for cell, width in zip(line[num_left:], widths[num_left:])]
        yield "  ".join([*left, *right]).rstrip()


def markdown_table(lines: Sequence[Sequence[str]], num_left: int) -> Iterator[str]:
    """The lines of a table in Markdown; see `aligned` for the arguments."""
    head, *rest = lines
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * num_left}{'---:|' * (len(head) - num_left)}"
    yield from (f"| {' | '.join(markdown(cell.strip()) for cell in line)} |" for line in rest)

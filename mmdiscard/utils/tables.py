"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1
) -> list[str]:
    """Lines of a table.

    Args:
        header: titles of the columns.
        rows: cells; as many in each row as there are titles.
        text_columns: so many columns from the left hold text; the others are right aligned.
    """
    rule = ['---'] * text_columns + ['---:'] * (len(header) - text_columns)
    return [_line(header), f'|{"|".join(rule)}|', *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    return f'| {" | ".join(cells)} |'

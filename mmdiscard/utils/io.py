"""Atomic writing of files, and reading and writing of JSON."""

import json
import re
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

LIST_OF_SCALARS = re.compile(r'\[\n\s+([^\[\]{}]*?)\n\s+\]')
LINE_BREAK = re.compile(r',\n\s+')


def write_atomically(path: str | PathLike, write: Callable[[Path], Any]) -> None:
    """Write a file through a temporary one beside it, so that it is complete or absent.

    ``write`` is called with the temporary path. The folder is made where it is missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + '.partial')
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | PathLike, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomically(path, lambda partial: partial.write_text(text, encoding='utf-8'))


def write_json(path: str | PathLike, content: Mapping[str, Any], compact: bool = False) -> None:
    """Write JSON atomically; what JSON has no type for, such as a class, is written as its `str`.

    Args:
        path: the file; its folder is made where it is missing.
        content: what to write.
        compact: on one line, for large files; otherwise indented, with lists of numbers or words
            on one line.
    """
    text = json.dumps(content, indent=None if compact else 2, default=str)
    if not compact:
        text = LIST_OF_SCALARS.sub(lambda found: f'[{LINE_BREAK.sub(", ", found[1])}]', text)
    write_text(path, text + '\n')


def as_json(content: Any) -> Any:
    """Content as it would be read back after `write_json`, to compare it with what was read."""
    return json.loads(json.dumps(content, default=str))


def read_json(path: str | PathLike) -> Any:
    """Content of a JSON file; `OSError` if it cannot be read, `ValueError` if it is not JSON."""
    return json.loads(Path(path).read_text(encoding='utf-8'))

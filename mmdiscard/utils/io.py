"""Files that are either complete or absent: atomic writing, and reading of JSON."""

import json
import re
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

LINE_BREAK = re.compile(r',\n\s+')


def write_atomically(path: str | PathLike, write: Callable[[Path], Any]) -> None:
    """Write a file through a temporary one beside it, so that it is complete or absent.

    Args:
        path: the file; its folder is made where it is missing.
        write: called with the temporary path; writes the content there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + '.partial')
    write(partial)
    partial.replace(path)


def write_json(path: str | PathLike, content: Mapping[str, Any]) -> None:
    """Write indented JSON atomically, with lists of numbers or words on one line."""
    text = json.dumps(content, indent=2)
    text = re.sub(
        r'\[\n\s+([^\[\]{}]*?)\n\s+\]', lambda m: f'[{re.sub(LINE_BREAK, ", ", m[1])}]', text
    )
    write_atomically(path, lambda partial: partial.write_text(text + '\n', encoding='utf-8'))


def read_json(path: str | PathLike) -> Any:
    """Content of a JSON file.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no JSON.
    """
    return json.loads(Path(path).read_text(encoding='utf-8'))

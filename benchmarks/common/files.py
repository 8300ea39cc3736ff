"""Results that are kept between runs."""

from pathlib import Path
from typing import Any

from mmdiscard.utils import read_json


def read_results(path: Path) -> dict[str, Any]:
    """Content of a JSON file; empty if there is none."""
    return read_json(path) if path.is_file() else {}

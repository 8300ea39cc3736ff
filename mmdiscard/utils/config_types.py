"""The ``type`` of a config, which may be a name or a class."""

from collections.abc import Mapping
from typing import Any


def type_name(config: Mapping[str, Any]) -> str:
    """Name of the class that a config describes, without scope or module."""
    kind = config.get('type')
    return getattr(kind, '__name__', str(kind)).rpartition('.')[2]

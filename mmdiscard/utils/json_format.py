"""JSON files that name their format and version."""

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

from ..errors import MMDiscardError
from .io import read_json, write_json


@dataclass(frozen=True)
class JsonFormat:
    """A kind of JSON file that names its format and version.

    Attributes:
        format: name of the format, kept in the file.
        version: raised whenever older readers would misread a file.
        maker: command that makes such a file, for messages.
    """

    format: str
    version: int
    maker: str

    def write_content(
        self, path: str | PathLike, content: Mapping[str, Any], compact: bool = False
    ) -> None:
        """Write ``content`` atomically; see `write_json`.

        Args:
            path: of the file.
            content: what to write besides format and version.
            compact: without indentation.
        """
        head = dict(format=self.format, version=self.version)
        write_json(path, head | dict(content), compact)

    def read_content(self, path: str | PathLike) -> dict[str, Any]:
        """Content of a file, with ``format`` and ``version``.

        Raises:
            MMDiscardError: if it is missing, damaged, of another format or a later version.
        """
        try:
            content = read_json(path)
        except OSError as error:
            raise MMDiscardError(
                f'cannot read {path}: {error.strerror}; make it with {self.maker}'
            ) from error
        except ValueError as error:
            raise self.damaged(path, 'not JSON') from error
        found = content if isinstance(content, dict) else {}
        if found.get('format') != self.format:
            raise MMDiscardError(
                f'{path} holds {found.get("format", "something else")!r}, not {self.format!r}; '
                f'make one with {self.maker}'
            )
        if found.get('version') != self.version:
            raise MMDiscardError(
                f'{path} has version {found.get("version")!r} of its format, this mmdiscard '
                f'reads version {self.version}; make it anew with {self.maker}'
            )
        return found

    def damaged(self, path: str | PathLike, why: object) -> MMDiscardError:
        """The error for a file whose content is not valid."""
        return MMDiscardError(f'{path} is damaged ({why}); make it anew with {self.maker}')

"""Small readable files that belong to one attached model: states, thresholds."""

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

from ..errors import MMDiscardError
from ..utils.io import read_json, write_json
from .fingerprint import Fingerprint


@dataclass(frozen=True)
class ModelFile:
    """A kind of JSON file with a format, a version and the fingerprint of a model.

    Attributes:
        format: what the file says it is.
        version: raised whenever older readers would misread it.
        maker: how one makes such a file, for messages.
    """

    format: str
    version: int
    maker: str

    def write(
        self, path: str | PathLike, fingerprint: Fingerprint, content: Mapping[str, Any]
    ) -> None:
        """Write ``content`` for a model, all or nothing."""
        head = dict(format=self.format, version=self.version)
        write_json(path, head | dict(content) | dict(fingerprint=fingerprint.to_dict()))

    def read(self, path: str | PathLike) -> tuple[Fingerprint, dict[str, Any]]:
        """The model that a file was made for, and what else it says.

        Raises:
            MMDiscardError: if it is missing, damaged, of another kind or a later version.
        """
        content = self._load(path)
        if content.get('format') != self.format:
            raise MMDiscardError(
                f'{path} holds {content.get("format", "something else")!r}, not {self.format!r}; '
                f'make one with {self.maker}'
            )
        if content.get('version') != self.version:
            raise MMDiscardError(
                f'{path} has version {content.get("version")!r} of its format, this mmdiscard '
                f'reads version {self.version}; make it anew with {self.maker}'
            )
        try:
            return Fingerprint.from_dict(content.get('fingerprint')), content
        except MMDiscardError as error:
            raise MMDiscardError(f'{path}: {error}') from error

    def damaged(self, path: str | PathLike, why: object) -> MMDiscardError:
        """The error for content that makes no sense."""
        return MMDiscardError(f'{path} is damaged ({why}); make it anew with {self.maker}')

    def _load(self, path: str | PathLike) -> dict[str, Any]:
        try:
            content = read_json(path)
        except OSError as error:
            raise MMDiscardError(
                f'cannot read {path}: {error.strerror}; make it with {self.maker}'
            ) from error
        except ValueError as error:
            raise self.damaged(path, 'no JSON') from error
        return content if isinstance(content, dict) else {}

"""Small readable files that belong to one attached model: states, thresholds."""

from collections.abc import Mapping
from os import PathLike
from typing import Any

from ..errors import MMDiscardError
from ..utils import JsonFormat
from .fingerprint import Fingerprint


class ModelFile(JsonFormat):
    """A format of JSON files that hold the fingerprint of the model they were made for."""

    def write(
        self, path: str | PathLike, fingerprint: Fingerprint, content: Mapping[str, Any]
    ) -> None:
        """Write ``content`` for a model atomically.

        Args:
            path: the file; its folder is made where it is missing.
            fingerprint: of the model.
            content: what to write, besides format, version and fingerprint.
        """
        self.write_content(path, dict(content) | dict(fingerprint=fingerprint.to_dict()))

    def read(self, path: str | PathLike) -> tuple[Fingerprint, dict[str, Any]]:
        """The model that a file was made for, and its content.

        Raises:
            MMDiscardError: if it is missing, damaged, of another format or a later version.
        """
        content = self.read_content(path)
        try:
            return Fingerprint.from_dict(content.get('fingerprint')), content
        except MMDiscardError as error:
            raise MMDiscardError(f'{path}: {error}') from error

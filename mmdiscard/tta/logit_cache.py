"""Cache on disk of the logits of every view of labelled images."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import MMDiscardError
from ..utils import as_json, read_json, write_json

IGNORED = -1


class LogitCache:
    """Logits and labels in NumPy arrays in a folder, written image by image.

    An interrupted run continues with the images that are missing.

    Args:
        folder: of the arrays.
        key: settings that the logits depend on. A folder with another key is emptied.
        images: number of images, ``I``.
        rows: number of rows per image: 1, or the number of pixels that are kept of each.

    Attributes:
        views: names of the views; empty before `begin`.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any], images: int, rows: int = 1) -> None:
        self.folder = Path(folder)
        self.key = as_json(dict(key))
        self.images = images
        self.rows = rows
        self.views: tuple[str, ...] = ()
        self._logits = self._labels = self._done = None
        known = self._read_spec()
        if known and known['key'] == self.key and known['size'] == [images, rows]:
            self._open('r+', tuple(known['views']), known['classes'])
        elif self.folder.exists():
            shutil.rmtree(self.folder)

    def begin(self, views: Sequence[str], classes: int) -> None:
        """Create the arrays for the logits of ``classes`` in these views, unless they exist.

        Raises:
            MMDiscardError: if they exist with other views or classes.
        """
        if self._logits is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._open('w+', tuple(views), classes)
            spec = dict(key=self.key, size=[self.images, self.rows], views=views, classes=classes)
            write_json(self.folder / 'spec.json', spec, compact=True)
        elif (tuple(views), classes) != (self.views, self._logits.shape[2]):
            raise MMDiscardError(
                f'images of one set give different views or classes; empty {self.folder} if the '
                'pipeline changed'
            )

    def missing(self) -> list[int]:
        """Positions of images that were not written yet."""
        if self._done is None:
            return list(range(self.images))
        return np.flatnonzero(~self._done).tolist()

    def write(self, image: int, logits: Tensor, labels: Tensor) -> None:
        """Write one image.

        Args:
            image: its position, from 0.
            logits: ``(rows, V, K)``.
            labels: ``(rows,)``, `IGNORED` where there is no label.
        """
        part = slice(image * self.rows, (image + 1) * self.rows)
        self._logits[part] = logits.float().cpu().numpy()
        self._labels[part] = labels.cpu().numpy()
        self._done[image] = True

    def flush(self) -> None:
        """Write to disk, the marks of finished images last."""
        for array in (self._logits, self._labels, self._done):
            array.flush()

    def read(self) -> tuple[Tensor, Tensor]:
        """Logits ``(N, V, K)`` and labels ``(N,)`` of all rows that have a label."""
        labels = torch.from_numpy(np.array(self._labels))
        kept = labels != IGNORED
        return torch.from_numpy(np.array(self._logits))[kept], labels[kept]

    def _read_spec(self) -> dict | None:
        try:
            return read_json(self.folder / 'spec.json')
        except (OSError, ValueError):
            return None

    def _open(self, mode: str, views: tuple[str, ...], classes: int) -> None:
        count = self.images * self.rows

        def array(name: str, dtype: type, shape: tuple[int, ...]) -> np.memmap:
            path = self.folder / f'{name}.npy'
            if mode == 'r+':
                return np.lib.format.open_memmap(path, mode)
            return np.lib.format.open_memmap(path, mode, dtype, shape)

        self.views = views
        self._logits = array('logits', np.float32, (count, len(views), classes))
        self._labels = array('labels', np.int64, (count,))
        self._done = array('done', np.bool_, (self.images,))

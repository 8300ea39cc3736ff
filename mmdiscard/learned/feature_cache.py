"""Cache of the features of states on disk, for later epochs of a training."""

import contextlib
import hashlib
import io
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import Tensor

from ..search import Rows
from ..utils import write_atomically
from .state_features import StateFeatures, by_rank, is_kept, joined

GIBIBYTE = 2**30
SUFFIX = '.features'


class FeatureCache:
    """States and features of images, in one file per image.

    Images are identified by a hash of their pixels after the pipeline, so another crop is another
    image. Files of an interrupted run with the same key are used, those of other keys are deleted.

    Args:
        folder: of the files; created if missing.
        key: text that changes with everything else that features depend on: model, weights, search.
        max_bytes: largest size of all files together; further images are not cached.

    Attributes:
        hits: number of images that were read from the cache.
        misses: number of other images: not in the cache, or in a batch with such an image.
        size: of all files, in bytes.
    """

    def __init__(self, folder: str | Path, key: str, max_bytes: int = 8 * GIBIBYTE) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self.hits = self.misses = 0
        self._prefix = _hash(key.encode())
        self.size = 0
        self._names: set[str] = set()  # of the files
        self._full = False
        for path in self.folder.glob(f'*{SUFFIX}'):
            if path.name.startswith(self._prefix):
                self._names.add(path.name)
                self.size += path.stat().st_size
            else:
                path.unlink()

    def get(self, images: Tensor) -> StateFeatures | None:
        """States and features of ``images`` ``(N, 3, H, W)``; None unless all are cached."""
        names = list(map(self._name, images))
        if not self._names.issuperset(names):
            self.misses += len(names)
            return None
        self.hits += len(names)
        parts = [torch.load(self.folder / name, weights_only=True) for name in names]
        states = [part['states'] for part in parts]
        image = torch.cat([torch.full((len(own),), n) for n, own in enumerate(states)])
        order = by_rank(image)
        levels = joined([part['features'] for part in parts], order)
        rows = Rows(image[order], torch.cat(states)[order])
        return StateFeatures(rows, tuple(level.to(images.device) for level in levels))

    def put(self, images: Tensor, found: StateFeatures) -> None:
        """Cache the features of ``images`` until the cache is full."""
        for number, name in enumerate(map(self._name, images)):
            if self._full or name in self._names:
                continue
            own = (found.rows.images == number).nonzero().flatten()
            features = [_rows_of(level, own).cpu() for level in found.features]
            buffer = io.BytesIO()
            torch.save(dict(states=found.rows.states[own], features=features), buffer)
            self._write(name, buffer.getvalue())

    def remove(self) -> None:
        """Delete all files."""
        for name in self._names:
            (self.folder / name).unlink(missing_ok=True)
        self._names.clear()
        self.size = 0
        with contextlib.suppress(OSError):  # something else is in the folder
            self.folder.rmdir()

    def _name(self, image: Tensor) -> str:
        pixels = image.detach().cpu().contiguous().numpy()
        return f'{self._prefix}-{_hash(pixels.tobytes())}{SUFFIX}'

    def _write(self, name: str, content: bytes) -> None:
        self._full = self.size + len(content) > self.max_bytes
        if self._full:
            print_log(
                f'mmdiscard: the feature cache is full with {len(self._names)} images; features of '
                'others are computed in every epoch. Raise aggregator_training.cache_gib to cache '
                'more',
                'current',
            )
            return
        write_atomically(self.folder / name, lambda partial: partial.write_bytes(content))
        self._names.add(name)
        self.size += len(content)


def _rows_of(level: Tensor, rows: Tensor) -> Tensor:
    if is_kept(level):
        return level[rows.to(level.device)]
    return level[:1].expand(len(rows), *level.shape[1:])


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()

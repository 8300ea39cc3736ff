"""Features on disk, from one epoch to the next."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor

from ..search import Rows
from .state_features import StateFeatures

GIBIBYTE = 2**30
SAVE_EVERY = 64  # batches


@dataclass(frozen=True)
class _Record:
    """What is kept of an image: states, and every level that is kept, of all of them."""

    states: tuple[int, ...]
    levels: tuple[tuple[int, ...], ...]  # (C, h, w)
    kept: tuple[bool, ...]
    dtype: str

    @property
    def floats(self) -> int:
        sizes = zip(self.levels, self.kept, strict=True)
        return self.states[0] * sum(prod(shape) for shape, kept in sizes if kept)


class FeatureCache:
    """States and features of images, in one file that is mapped into memory.

    An image is known by all of its pixels after the pipeline, so one that is cropped otherwise is
    another image. A batch is kept or not as a whole. What an interrupted run kept is used again by
    a run with the same key, and thrown away by others.

    Args:
        folder: of the files; made if need be.
        key: whatever else the features depend on: model, weights, search.
        max_bytes: what the file may take. Images beyond it are computed in every epoch.
    """

    def __init__(self, folder: str | Path, key: str, max_bytes: int = 8 * GIBIBYTE) -> None:
        self.folder = Path(folder)
        self.key = key
        self.max_bytes = max_bytes
        self.hits = self.misses = 0
        self._rows: dict[str, int] = {}
        self._record: _Record | None = None
        self._floats: np.ndarray | None = None
        self._states: dict[str, list] = {}
        self._unsaved = 0
        self._load()

    @property
    def capacity(self) -> int:
        """How many images fit."""
        if self._record is None:
            return 0
        return self.max_bytes // max(1, self._record.floats * np.dtype(self._record.dtype).itemsize)

    def get(self, images: Tensor) -> StateFeatures | None:
        """The states of all of ``images``; None if any is not there."""
        names = list(map(_digest, images))
        if not all(name in self._rows for name in names):
            self.misses += len(names)
            return None
        self.hits += len(names)
        record, count = self._record, self._record.states[0]
        states = torch.tensor([self._states[name] for name in names]).transpose(0, 1)
        flat = torch.from_numpy(self._floats[[self._rows[name] for name in names]])
        return StateFeatures(
            Rows(torch.arange(len(names)).repeat(count), states.flatten(0, 1)),
            tuple(self._levels(flat.to(images.device), record, len(names) * count)),
        )

    def put(self, images: Tensor, collected: StateFeatures) -> None:
        """Keep the states of ``images``, as far as there is room."""
        count = len(collected.rows) // len(images)
        if not torch.equal(collected.rows.images, torch.arange(len(images)).repeat(count)):
            return  # images with different numbers of states have no common record
        states = collected.rows.states.unflatten(0, (count, len(images))).transpose(0, 1)
        levels = collected.features
        record = _Record(
            tuple(states.shape[1:]),
            tuple(tuple(level.shape[1:]) for level in levels),
            tuple(level.stride(0) != 0 for level in levels),
            str(levels[0].dtype).removeprefix('torch.'),
        )
        names = list(map(_digest, images))
        new = [number for number, name in enumerate(names) if name not in self._rows]
        if not self._room(record, len(new)):
            return
        kept = [level for level, used in zip(levels, record.kept, strict=True) if used]
        by_image = [level.unflatten(0, (count, len(images))).transpose(0, 1) for level in kept]
        flat = torch.cat([level.flatten(1) for level in by_image], 1).cpu().numpy()
        for number in new:
            row = len(self._rows)
            self._floats[row] = flat[number]
            self._states[names[number]] = states[number].tolist()
            self._rows[names[number]] = row
        self._unsaved += 1
        if self._unsaved >= SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write what an interrupted run finds again."""
        if self._record is None:
            return
        self._floats.flush()
        content = dict(
            key=self.key, record=vars(self._record), rows=self._rows, states=self._states
        )
        partial = self._index.with_suffix('.partial')
        partial.write_text(json.dumps(content))
        partial.replace(self._index)
        self._unsaved = 0

    def remove(self) -> None:
        """Delete the files."""
        self._floats, self._rows, self._record = None, {}, None
        self._index.unlink(missing_ok=True)
        self._data.unlink(missing_ok=True)

    @property
    def _index(self) -> Path:
        return self.folder / 'index.json'

    @property
    def _data(self) -> Path:
        return self.folder / 'features.bin'

    def _levels(self, flat: Tensor, record: _Record, rows: int) -> Sequence[Tensor]:
        """Levels ``(M, C, h, w)``, first one row of every image, then the second, and so on."""
        count, start = record.states[0], 0
        for shape, kept in zip(record.levels, record.kept, strict=True):
            if not kept:
                yield flat.new_zeros(()).expand(rows, *shape)
                continue
            stop = start + count * prod(shape)
            level = flat[:, start:stop].view(len(flat), count, *shape)
            yield level.transpose(0, 1).flatten(0, 1)
            start = stop

    def _room(self, record: _Record, new: int) -> bool:
        if self._record is None:
            self._record = record
            if self.capacity < 1:
                print_log('mmdiscard: the feature cache is too small for one image', 'current')
            else:
                self._index.unlink(missing_ok=True)  # of another key: its features are gone now
                self._open('w+')
        return record == self._record and len(self._rows) + new <= self.capacity

    def _open(self, mode: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        shape = (self.capacity, self._record.floats)
        self._floats = np.memmap(self._data, self._record.dtype, mode, shape=shape)

    def _load(self) -> None:
        try:
            content = json.loads(self._index.read_text())
            if content['key'] != self.key:
                return
            record = content['record']
            self._record = _Record(
                tuple(record['states']),
                tuple(map(tuple, record['levels'])),
                tuple(record['kept']),
                record['dtype'],
            )
            self._open('r+')
            self._rows, self._states = content['rows'], content['states']
        except (OSError, ValueError, KeyError, TypeError):
            self._record = None  # nothing there, or half of it: begin anew


def _digest(image: Tensor) -> str:
    """Of one image ``(3, H, W)``."""
    pixels = image.detach().cpu().contiguous().numpy()
    return hashlib.blake2b(pixels.tobytes(), digest_size=16).hexdigest()

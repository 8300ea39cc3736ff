"""Files of finished images, so that an interrupted run goes on."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import barrier, get_rank, is_main_process

from ..utils import as_json
from .evaluation import ImageResult


class ResultFiles:
    """One file of JSON lines per process: what the run is, then a line per finished image.

    Files of a run with other settings are removed. A line that was cut off is ignored, and so is
    an image that lacks a procedure, as after a run for a lower cost.

    Args:
        folder: of the files; all processes see the same.
        about: what results depend on.
        procedures: names of those that are evaluated, in order.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any], procedures: Sequence[str]) -> None:
        self.folder = folder
        self.about = as_json(about)
        self.procedures = procedures
        if is_main_process():
            folder.mkdir(parents=True, exist_ok=True)
            for path in self._paths():
                if next(iter(_lines(path)), None) != self.about:
                    path.unlink()
        barrier()
        self.own = folder / f'images.rank{get_rank()}.jsonl'

    def read(self) -> dict[int, ImageResult]:
        """Finished images of all processes, by position; complete after `barrier`."""
        found = {}
        for path in self._paths():
            for line in _lines(path)[1:]:
                costs, statistics = line['costs'], line['statistics']
                if all(name in costs for name in self.procedures):
                    found[line['image']] = ImageResult(
                        np.array([statistics[name] for name in self.procedures], dtype=np.float64),
                        np.array([costs[name] for name in self.procedures]),
                    )
        return found

    def append(self, images: Sequence[int], results: Sequence[ImageResult]) -> None:
        """Add the results of finished images, by position."""
        lines = [
            dict(
                image=image,
                costs=dict(zip(self.procedures, one.costs.tolist(), strict=True)),
                statistics=dict(zip(self.procedures, _short(one.statistics), strict=True)),
            )
            for image, one in zip(images, results, strict=True)
        ]
        if not self.own.exists():
            lines = [self.about, *lines]
        with open(self.own, 'a', encoding='utf-8') as file:
            # A line break first ends a line that an interruption cut off.
            file.write('\n' + ''.join(json.dumps(line) + '\n' for line in lines))

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob('images.rank*.jsonl'))


def _lines(path: Path) -> list[Any]:
    """The complete lines of a file."""
    found = []
    for line in path.read_text(encoding='utf-8').splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # empty, or cut off
    return found


def _short(statistics: np.ndarray) -> list[list[float | int]]:
    """Counts as whole numbers, which are shorter in JSON."""
    return [
        [int(value) if value == int(value) else round(value, 7) for value in row]
        for row in statistics.tolist()
    ]

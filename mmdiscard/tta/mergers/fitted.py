"""Mergers with parameters that `tools/fit_tta.py` learns from the training set."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import MMDiscardError
from ...registry import MERGERS
from .base import Merger, per_class

FORMAT = 'mmdiscard merger'
VERSION = 1


@dataclass(frozen=True)
class MergerFile:
    """What is kept of a fitted merger.

    Attributes:
        merger: name of its class.
        views: names of the views it was fitted to, in the order of its parameters.
        parameters: lists of numbers, as the class reads them.
        origin: what it was made from, for people to read.
    """

    merger: str
    views: tuple[str, ...]
    parameters: Mapping[str, Any]
    origin: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: str | PathLike) -> None:
        """Write all or nothing."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + '.partial')
        partial.write_text(json.dumps(dict(format=FORMAT, version=VERSION) | asdict(self)))
        partial.replace(path)

    @classmethod
    def load(cls, path: str | PathLike) -> 'MergerFile':
        """Read a file.

        Raises:
            MMDiscardError: if it is missing, no such file, or of a later version.
        """
        try:
            content = json.loads(Path(path).read_text())
        except FileNotFoundError as error:
            raise MMDiscardError(f'merger file not found: {path}; make it with {HOW}') from error
        except (OSError, ValueError) as error:
            raise MMDiscardError(
                f'cannot read the merger file {path}: {error}; make it again with {HOW}'
            ) from error
        if not isinstance(content, dict) or content.pop('format', None) != FORMAT:
            raise MMDiscardError(f'{path} is not a merger file; make one with {HOW}')
        version = content.pop('version', None)
        if version != VERSION:
            raise MMDiscardError(
                f'{path} is a merger file of version {version}, this mmdiscard reads version '
                f'{VERSION}; make it again with {HOW}'
            )
        try:
            return cls(**(content | dict(views=tuple(content['views']))))
        except (KeyError, TypeError) as error:
            raise MMDiscardError(f'{path}: {error}; make it again with {HOW}') from error


HOW = 'tools/fit_tta.py'


class FittedMerger(Merger):
    """Its parameters come from a file and belong to certain views.

    Args:
        file: what `tools/fit_tta.py` wrote, or its content.

    Raises:
        MMDiscardError: if the file cannot be used, or holds another merger.
    """

    def __init__(self, file: str | PathLike | MergerFile) -> None:
        super().__init__(on='logits')
        self.file = file if isinstance(file, MergerFile) else MergerFile.load(file)
        if self.file.merger != type(self).__name__:
            raise MMDiscardError(
                f'the merger file holds a {self.file.merger}, not a {type(self).__name__}'
            )
        self._columns: Sequence[int] = range(len(self.file.views))
        self.load(self.file.parameters, len(self.file.views))

    def load(self, parameters: Mapping[str, Any], num_views: int) -> None:
        """Take the parameters.

        Raises:
            MMDiscardError: if they are not for so many views.
        """
        raise NotImplementedError

    def fit_to(self, names: Sequence[str]) -> None:
        known, given = set(self.file.views), set(names)
        if len(given) < len(names) or known != given:
            raise MMDiscardError(
                f'{type(self).__name__} was fitted to {len(self.file.views)} views, and '
                f'tta_pipeline has {len(names)}; '
                f'{_listed("it knows nothing of", given - known)}'
                f'{_listed("it misses", known - given)}fit it to this pipeline with {HOW}'
            )
        self._columns = [self.file.views.index(name) for name in names]

    def column(self, view: int) -> int:
        """Where the parameters of a view of the pipeline stand."""
        return self._columns[view]


@MERGERS.register_module()
class GPSMerger(FittedMerger):
    """Greedy policy search (Lyzhov et al., UAI 2020): the mean of a few views' logits.

    The other views are not computed at all.
    """

    def load(self, parameters: Mapping[str, Any], num_views: int) -> None:
        self.indices = [int(index) for index in _get(parameters, 'indices', self)]
        if not self.indices or not set(self.indices) <= set(range(num_views)):
            raise MMDiscardError(
                f'GPSMerger: indices {self.indices} are not views of {num_views}; make the file '
                f'again with {HOW}'
            )

    def uses(self, view: int) -> bool:
        return self.column(view) in self.indices

    def weight(self, view: int, values: Tensor, weight: Tensor | None) -> float:
        return 1.0 * self.indices.count(self.column(view))


@MERGERS.register_module()
class AugTTAMerger(FittedMerger):
    """One weight per view, at least 0 and normalised (Shanmugam et al., ICCV 2021)."""

    def load(self, parameters: Mapping[str, Any], num_views: int) -> None:
        self.coefficients = _numbers(parameters, self, num_views)

    def uses(self, view: int) -> bool:
        return bool(self.coefficients[self.column(view)] != 0)

    def weight(self, view: int, values: Tensor, weight: Tensor | None) -> float:
        return self.coefficients[self.column(view)].item()


@MERGERS.register_module()
class ClassTTAMerger(FittedMerger):
    """One weight per view and class, at least 0, not normalised (Shanmugam et al., ICCV 2021)."""

    def load(self, parameters: Mapping[str, Any], num_views: int) -> None:
        self.coefficients = _numbers(parameters, self, num_views)

    def weight(self, view: int, values: Tensor, weight: Tensor | None) -> Tensor:
        coefficients = self.coefficients[self.column(view)]
        if len(coefficients) != len(values):
            raise MMDiscardError(
                f'ClassTTAMerger was fitted to {len(coefficients)} classes, and the model has '
                f'{len(values)}; fit it to this model with {HOW}'
            )
        return per_class(coefficients, values)

    def normalize(self, total: Tensor, weights: Tensor | float) -> Tensor:
        return total


def _get(parameters: Mapping[str, Any], name: str, merger: FittedMerger) -> Any:
    if name not in parameters:
        raise MMDiscardError(
            f'{type(merger).__name__}: the file has no {name}; make it again with {HOW}'
        )
    return parameters[name]


def _numbers(parameters: Mapping[str, Any], merger: FittedMerger, num_views: int) -> Tensor:
    """``coefficients`` as ``(V,)`` or ``(V, K)``."""
    values = torch.tensor(_get(parameters, 'coefficients', merger), dtype=torch.float32)
    if len(values) != num_views or (values < 0).any() or not values.sum() > 0:
        raise MMDiscardError(
            f'{type(merger).__name__}: coefficients have to be at least 0 and one for each of '
            f'{num_views} views; make the file again with {HOW}'
        )
    return values


def _listed(what: str, names: set[str]) -> str:
    shown = ', '.join(sorted(names)[:3])
    return f'{what} {shown}{" and others" if len(names) > 3 else ""}; ' if names else ''

"""Mergers whose parameters `mmdiscard.fit_tta` learns from the training set."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from ..errors import MMDiscardError
from ..registry import MERGERS
from ..utils import JsonFormat
from .mergers import Merger

FIT_TOOL = 'python -m mmdiscard.fit_tta'
FORMAT = JsonFormat('mmdiscard merger', 1, FIT_TOOL)


@dataclass(frozen=True)
class MergerFile:
    """File of a fitted merger.

    Attributes:
        merger: name of its class.
        views: names of the views it was fitted to, in the order of its parameters.
        parameters: lists of numbers, as the class reads them.
        origin: config, weights and images that it was fitted with, as notes.
    """

    merger: str
    views: tuple[str, ...]
    parameters: Mapping[str, Any]
    origin: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: str | PathLike) -> None:
        """Write the file atomically."""
        FORMAT.write_content(path, asdict(self), compact=True)

    @classmethod
    def load(cls, path: str | PathLike) -> 'MergerFile':
        """Read a file.

        Raises:
            MMDiscardError: if it is missing, damaged, of another format or a later version.
        """
        content = FORMAT.read_content(path)
        try:
            views = tuple(content['views'])
            return cls(content['merger'], views, content['parameters'], content.get('origin', {}))
        except KeyError as error:
            raise FORMAT.damaged(path, f'it has no {error}') from error
        except TypeError as error:
            raise FORMAT.damaged(path, error) from error


class FittedMerger(Merger):
    """Merger with parameters for each of the views that it was fitted to.

    Args:
        file: path of the file that `mmdiscard.fit_tta` wrote, or its content.

    Raises:
        MMDiscardError: if the file cannot be read, or is of another merger.
    """

    def __init__(self, file: str | PathLike | MergerFile) -> None:
        super().__init__(on='logits')
        self.file = file if isinstance(file, MergerFile) else MergerFile.load(file)
        if self.file.merger != type(self).__name__:
            raise MMDiscardError(
                f'the merger file holds a {self.file.merger}, not a {type(self).__name__}'
            )
        self._columns: Sequence[int] = range(len(self.file.views))
        try:
            self.load(self.file.parameters, len(self.file.views))
        except KeyError as error:
            raise self._invalid(f'the file has no {error.args[0]}') from error
        except (TypeError, ValueError) as error:
            raise self._invalid(f'the parameters in the file are not valid ({error})') from error

    def load(self, parameters: Mapping[str, Any], num_views: int) -> None:
        """Read the parameters.

        Raises:
            MMDiscardError: if they are not valid for ``num_views`` views.
            KeyError, TypeError, ValueError: likewise.
        """
        raise NotImplementedError

    def prepare(self, names: Sequence[str], independent_classes: bool = False) -> None:
        super().prepare(names, independent_classes)
        if independent_classes:
            raise MMDiscardError(
                f'{type(self).__name__} is fitted to exclusive classes, and this model decides '
                'every class on its own (multi-label); use MeanMerger or EntropyMerger'
            )
        known, given = set(self.file.views), set(names)
        if len(given) < len(names) or known != given:
            raise MMDiscardError(
                f'{type(self).__name__} was fitted to {len(self.file.views)} views, and '
                f'tta_pipeline has {len(names)}; '
                f'{_listed("it knows nothing of", given - known)}'
                f'{_listed("it misses", known - given)}fit it to this pipeline with {FIT_TOOL}'
            )
        self._columns = [self.file.views.index(name) for name in names]

    def column(self, view: int) -> int:
        """Index in the parameters of a view of the pipeline."""
        return self._columns[view]

    def _invalid(self, why: str) -> MMDiscardError:
        return MMDiscardError(f'{type(self).__name__}: {why}; make the file again with {FIT_TOOL}')


@MERGERS.register_module()
class GPSMerger(FittedMerger):
    """Mean of the views that greedy policy search chose (Lyzhov et al., UAI 2020).

    The other views are not computed.
    """

    def load(self, parameters: Mapping[str, Any], num_views: int) -> None:
        self.indices = [int(index) for index in parameters['indices']]
        if not self.indices or not set(self.indices) <= set(range(num_views)):
            raise self._invalid(f'indices {self.indices} are not views of {num_views}')

    def uses(self, view: int) -> bool:
        return self.column(view) in self.indices

    def weight(self, view: int, values: Tensor, weight: Tensor | None) -> float:
        return 1.0 * self.indices.count(self.column(view))


class _CoefficientMerger(FittedMerger):
    """Merger with coefficients of at least 0, ``(V,)`` or ``(V, K)``."""

    #: number of dimensions of the coefficients
    dimensions: int

    def load(self, parameters: Mapping[str, Any], num_views: int) -> None:
        values = torch.tensor(parameters['coefficients'], dtype=torch.float32)
        fits = values.ndim == self.dimensions and len(values) == num_views
        if not fits or not (values >= 0).all() or not values.sum() > 0:
            raise self._invalid(
                f'coefficients have to be at least 0 and one for each of {num_views} views'
            )
        self.coefficients = values


@MERGERS.register_module()
class AugTTAMerger(_CoefficientMerger):
    """Weighted mean with one weight per view (AugTTA: Shanmugam et al., ICCV 2021)."""

    dimensions = 1

    def uses(self, view: int) -> bool:
        return bool(self.coefficients[self.column(view)] != 0)

    def weight(self, view: int, values: Tensor, weight: Tensor | None) -> float:
        return self.coefficients[self.column(view)].item()


@MERGERS.register_module()
class ClassTTAMerger(_CoefficientMerger):
    """Weighted sum with one weight per view and class (ClassTTA: Shanmugam et al., ICCV 2021)."""

    dimensions = 2

    def weight(self, view: int, values: Tensor, weight: Tensor | None) -> Tensor:
        coefficients = self.coefficients[self.column(view)]
        if len(coefficients) != len(values):
            raise MMDiscardError(
                f'ClassTTAMerger was fitted to {len(coefficients)} classes, and the model has '
                f'{len(values)}; fit it to this model with {FIT_TOOL}'
            )
        return per_class(coefficients, values)

    def normalize(self, total: Tensor, weights: Tensor | float) -> Tensor:
        return total


def _listed(what: str, names: set[str]) -> str:
    shown = ', '.join(sorted(names)[:3])
    return f'{what} {shown}{" and others" if len(names) > 3 else ""}; ' if names else ''


def per_class(coefficients: Tensor, values: Tensor) -> Tensor:
    """``(K,)`` in a shape that multiplies ``(K, ...)``."""
    return torch.as_tensor(coefficients).to(values).view(-1, *[1] * (values.ndim - 1))

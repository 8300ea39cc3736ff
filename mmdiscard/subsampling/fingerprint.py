"""Fingerprint: identifies the model and groups that a file was made for."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from ..errors import MMDiscardError
from .state import SubsamplingGroup


@dataclass(frozen=True)
class GroupPrint:
    """The properties of a searched group that have to match.

    Attributes:
        name: of the group.
        members: module names inside the backbone.
        factor: subsampling factor ``(Ry, Rx)``.
        stride: input stride ``(Sy, Sx)``, in image pixels.
    """

    name: str
    members: tuple[str, ...]
    factor: tuple[int, int]
    stride: tuple[int, int]


@dataclass(frozen=True)
class Fingerprint:
    """Identity of a model, its searched groups and its input: what states mean depends on it.

    It says nothing of the weights: a file made for one training may be used with another.

    Attributes:
        model: class name of the classifier or segmentor.
        backbone: class name of its backbone.
        groups: the searched groups, in execution order.
        input_size: ``(H, W)`` that the groups were traced with.
        classes: number of classes; None if the model does not say.
        channels: of the backbone's output levels; empty if they are not known.
    """

    model: str
    backbone: str
    groups: tuple[GroupPrint, ...]
    input_size: tuple[int, int]
    classes: int | None = None
    channels: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        model: nn.Module,
        backbone: nn.Module,
        groups: Sequence[SubsamplingGroup],
        input_size: tuple[int, int],
        channels: Sequence[int] = (),
    ) -> 'Fingerprint':
        """The fingerprint of a built model whose ``groups`` are searched.

        Args:
            model: classifier or segmentor.
            backbone: of the model.
            groups: the searched groups.
            input_size: ``(H, W)`` that they were traced with.
            channels: of the output levels, where known.
        """
        return cls(
            model=type(model).__name__,
            backbone=type(backbone).__name__,
            groups=tuple(
                GroupPrint(group.name, group.members, group.factor, group.stride)
                for group in groups
            ),
            input_size=tuple(input_size),
            classes=_classes(model),
            channels=tuple(channels),
        )

    def to_dict(self) -> dict[str, Any]:
        """Only what JSON knows."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Any) -> 'Fingerprint':
        """Read what `to_dict` wrote, whether or not it went through JSON.

        Raises:
            MMDiscardError: if it is anything else.
        """
        try:
            groups = tuple(
                GroupPrint(
                    name=_text(group['name']),
                    members=tuple(map(_text, group['members'])),
                    factor=_pair(group['factor']),
                    stride=_pair(group['stride']),
                )
                for group in content['groups']
            )
            classes = content['classes']
            return cls(
                model=_text(content['model']),
                backbone=_text(content['backbone']),
                groups=groups,
                input_size=_pair(content['input_size']),
                classes=None if classes is None else _count(classes),
                channels=tuple(map(_count, content['channels'])),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise MMDiscardError(
                f'the fingerprint is damaged ({type(error).__name__}: {error}); make the file anew'
            ) from error

    def differences(self, other: 'Fingerprint') -> list[str]:
        """Differences of a model (``other``) from the one that this was made for, one line each."""
        return [
            *_differs('for the model', self.model, other.model),
            *_differs('for the backbone', self.backbone, other.backbone),
            *self._groups_differ(other.groups),
            *_differs('for this number of classes:', self.classes, other.classes),
            *_differs('for feature channels', self.channels, other.channels),
        ]

    def check(self, other: 'Fingerprint', what: str) -> None:
        """Refuse a model that this was not made for.

        Args:
            other: the model's.
            what: the file, as the message names it.

        Raises:
            MMDiscardError: names every difference.
        """
        differences = self.differences(other)
        if differences:
            raise MMDiscardError(
                f'{what} does not fit the model: {"; ".join(differences)}; make it anew with this '
                'model and these groups'
            )

    def _groups_differ(self, others: Sequence[GroupPrint]) -> list[str]:
        if len(self.groups) != len(others):
            return [
                f'made for {len(self.groups)} groups ({_names(self.groups)}), the model searches '
                f'{len(others)} ({_names(others)})'
            ]
        pairs = zip(self.groups, others, strict=True)
        return [line for mine, theirs in pairs for line in _group_differs(mine, theirs)]


def _group_differs(mine: GroupPrint, theirs: GroupPrint) -> list[str]:
    if mine.name != theirs.name:
        return [f'group {mine.name} there is {theirs.name} here']
    label = f'group {mine.name}'
    lines = []
    if mine.members != theirs.members:
        lines.append(
            f'{label} consists of {", ".join(mine.members)} there, '
            f'of {", ".join(theirs.members)} here'
        )
    if mine.factor != theirs.factor:
        lines.append(f'{label} has factor {_size(mine.factor)} there, {_size(theirs.factor)} here')
    if mine.stride != theirs.stride:
        lines.append(
            f'{label} has input stride {_size(mine.stride)} there, {_size(theirs.stride)} here'
        )
    return lines


def _differs(what: str, mine: Any, theirs: Any) -> list[str]:
    """One line if both are known and not the same."""
    if not mine or not theirs or mine == theirs:
        return []
    return [f'made {what} {mine}, this one has {theirs}']


def _names(groups: Sequence[GroupPrint]) -> str:
    return ', '.join(group.name for group in groups)


def _size(pair: tuple[int, int]) -> str:
    return f'{pair[0]}x{pair[1]}'


def _classes(model: nn.Module) -> int | None:
    """The number of classes that the first part of a model that has one names."""
    counts = (getattr(module, 'num_classes', None) for module in model.modules())
    return next((count for count in counts if isinstance(count, int) and count > 0), None)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f'{value!r} is no name')
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f'{value!r} is no number of at least 1')
    return value


def _pair(value: Any) -> tuple[int, int]:
    height, width = map(_count, value)
    return height, width

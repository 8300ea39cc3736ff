"""The option `where`: size and number of the windows in which states are computed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..errors import MMDiscardError
from ..utils import is_number, is_whole
from .windows import Size, Windows, choose_windows

UNSURE = 'unsure'
DEFAULT_SHARE = 0.4  # holds most of the gain on real models, see docs/unsure-regions.md
DEFAULT_HALO = 16
DEFAULT_NUMBER = 9  # windows of the default size in an image: larger ones keep more of the gain
UNKNOWN_STRIDE = 32  # in the place of the coarsest stride of a model that is taken as a whole


@dataclass(frozen=True)
class UnsureWindows:
    """Chooses the windows where the plain prediction is least sure, to compute states there.

    Windows are chosen for every image by itself, one after the other: the one that has the largest
    sum of entropy in pixels that no window before it has.

    Attributes:
        size: ``(h, w)`` in pixels, halo included; None for about a third of the image's sides.
        halo: see `Windows`.
        share: sum of the areas of the windows, relative to the image, at most.
        cost: plain forwards per image at most, instead of ``share``.
        flip: whether the second look is at mirror images: of the windows in the states besides the
            default one, or in that one where there is no other.
    """

    size: Size | None = None
    halo: int = DEFAULT_HALO
    share: float | None = None
    cost: float | None = None
    flip: bool = False

    @classmethod
    def parse(cls, where: Any) -> 'UnsureWindows':
        """Read the option of a config: ``'unsure'`` or ``dict(size=, halo=, share= or cost=,
        flip=)``.

        One that was read already is returned as it is.

        Raises:
            MMDiscardError: if it is neither, or a number is out of its range.
        """
        if isinstance(where, cls):
            return where
        where = dict(type=where) if isinstance(where, str) else where
        names = ('type', 'size', 'halo', 'share', 'cost', 'flip')
        if (
            not isinstance(where, Mapping)
            or set(where) - set(names)
            or where.get('type', UNSURE) != UNSURE
        ):
            raise MMDiscardError(
                f"where must be 'unsure' or a dict of size, halo, flip and share or cost, such as "
                f'dict(size=(96, 96), halo=16, share=0.4); got {where!r}'
            )
        given = {name: where[name] for name in names[1:] if where.get(name) is not None}
        _check_numbers(given)
        if 'size' in given:
            side = given['size']
            given['size'] = (side, side) if isinstance(side, int) else tuple(side)
        if 'cost' not in given:
            given.setdefault('share', DEFAULT_SHARE)
        return cls(**given)

    def resolved(self, price: float) -> 'UnsureWindows':
        """Copy of the settings with a share of the area instead of a cost.

        ``price`` is that of the second look at a whole image, in plain forwards.
        """
        if self.cost is None:
            return self
        return replace(self, share=(self.cost - 1) / max(price, 1e-9), cost=None)

    def check(self, frame: Size, step: Size) -> None:
        """Check the windows against images of ``frame`` and the coarsest stride of a model.

        Raises:
            MMDiscardError: if a window is larger than the image, its sides are no multiples of the
                stride, or no window fits into the share.
        """
        if self.size is not None:
            if any(side % each for side, each in zip(self.size, step, strict=True)):
                raise MMDiscardError(
                    f'where: windows of {_text(self.size)} are not made of whole cells of the '
                    f'coarsest stride, {max(step)}; take multiples of {max(step)}'
                )
            if any(side > whole for side, whole in zip(self.size, frame, strict=True)):
                raise MMDiscardError(
                    f'where: windows of {_text(self.size)} are larger than the images, '
                    f'{_text(frame)}; take smaller ones'
                )
            kept = [side - 2 * self.halo for side in self.size]
            if any(part < each for part, each in zip(kept, step, strict=True)):
                raise MMDiscardError(
                    f'where: a halo of {self.halo} leaves less than one cell of the coarsest '
                    f'stride, {max(step)}, of windows of {_text(self.size)}; lower halo or raise '
                    'size'
                )
        size = self.size_in(frame, step)
        if self.share and not self.number(frame, size):
            raise MMDiscardError(
                f'where: one window of {_text(size)} is '
                f'{math.prod(size) / math.prod(frame):.2g} of an image of {_text(frame)}, and no '
                f'more than {self.share:.2g} may be computed again; take smaller windows or a '
                'higher share or cost'
            )

    def size_in(self, frame: Size, step: Size) -> Size:
        """``(h, w)`` of the windows in images of ``frame``, at most the whole image."""
        if self.size is not None:
            return tuple(map(min, self.size, frame))
        count = max(1, math.floor(DEFAULT_NUMBER * self.share + 1e-6))
        part = (self.share or 1 / DEFAULT_NUMBER) / count
        height, width = (
            each
            * max(
                1 + math.ceil(2 * self.halo / each),
                math.floor(math.sqrt(part) * whole / each + 1e-6),
            )
            for whole, each in zip(frame, step, strict=True)
        )
        # One side may be longer where the share pays for it.
        longer = [(height + step[0], width), (height, width + step[1])]
        most = part * math.prod(frame) + 1e-6
        size = max((s for s in longer if math.prod(s) <= most), key=math.prod, default=None)
        return tuple(map(min, size or (height, width), frame))

    def number(self, frame: Size, size: Size) -> int:
        """Maximum number of windows per image."""
        return math.floor(self.share * math.prod(frame) / math.prod(size) + 1e-6)

    def choose(
        self, uncertainty: Tensor, step: Size, valid: Sequence[Size] | None = None
    ) -> Windows:
        """Choose the windows of a batch.

        Args:
            uncertainty: ``(N, H, W)``, at least 0.
            step: windows begin at multiples of it; those at the far border end there.
            valid: ``(H, W)`` of every image without padding; None if there is none.
        """
        frame = tuple(uncertainty.shape[1:])
        size = self.size_in(frame, step)
        valid = valid or [frame] * len(uncertainty)
        counts = []
        for own in valid:
            # As if the image were alone in its batch, padded to the usual multiple at most.
            alone = tuple(
                min(math.ceil(side / UNKNOWN_STRIDE) * UNKNOWN_STRIDE, whole)
                for side, whole in zip(own, frame, strict=True)
            )
            counts.append(self.number(alone, size))
        return choose_windows(uncertainty, valid, counts, size, self.halo, step)


def _check_numbers(given: Mapping[str, Any]) -> None:
    size = given.get('size', 1)
    sides = [size] if isinstance(size, int) else size
    whole = isinstance(sides, list | tuple) and all(map(is_whole, sides))
    if not whole or len(sides) > 2:
        raise MMDiscardError(f'where: size must be (height, width) in pixels; got {size!r}')
    halo = given.get('halo', 0)
    if not is_whole(halo, least=0):
        raise MMDiscardError(f'where: halo must be a whole number, 0 or more; got {halo!r}')
    flip = given.get('flip', False)
    if not isinstance(flip, bool):
        raise MMDiscardError(f'where: flip must be True or False; got {flip!r}')
    if 'share' in given and 'cost' in given:
        raise MMDiscardError('where takes either share or cost, not both')
    for name, least in (('share', 0), ('cost', 1)):
        value = given.get(name, 1)
        if not is_number(value, least):
            raise MMDiscardError(f'where: {name} must be a number, {least} or more; got {value!r}')


def _text(size: Size) -> str:
    return f'{size[0]} x {size[1]}'

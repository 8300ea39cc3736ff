"""TTA policies: lists of views, those closest to the original image first.

They are the two policies of the paper's comparison with TTA, at fixed instead of random magnitudes.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, product, zip_longest
from typing import Any

from .. import compat
from ..errors import MMDiscardError
from ..registry import POLICIES
from ..utils import is_whole
from .transforms import CORNERS

Step = dict[str, Any]
GREY = 128


@dataclass(frozen=True)
class View:
    """One augmented view of an image.

    Attributes:
        name: unique in its policy.
        steps: configs of transforms.
        undone: whether segmentors can use it, because MM undoes it on a map of predictions (flips
            and scales) or nothing has to be undone (colours).
    """

    name: str
    steps: tuple[Step, ...] = ()
    undone: bool = True


class Policy:
    """A list of views, the first ``budget`` of `all_views`, which subclasses implement.

    Raises:
        MMDiscardError: if the budget is not a whole number of at least 1.
    """

    def __init__(self, budget: int | None = None) -> None:
        if budget is not None and not is_whole(budget):
            raise MMDiscardError(
                f'{type(self).__name__}: budget has to be a whole number of views, at least 1; '
                f'got {budget!r}'
            )
        self.budget = budget

    def all_views(self, dense: bool) -> list[View]:
        """All views, for a segmentor if ``dense``; those closest to the original image first."""
        raise NotImplementedError

    def views(self, dense: bool = False) -> list[View]:
        """The first ``budget`` views; for a segmentor (``dense``) of those that can be undone.

        Raises:
            MMDiscardError: if there are fewer.
        """
        views = [view for view in self.all_views(dense) if view.undone or not dense]
        if self.budget is not None and self.budget > len(views):
            kind = 'segmentors' if dense else 'classifiers'
            raise MMDiscardError(
                f'{type(self).__name__} has {len(views)} views for {kind}, and budget is '
                f'{self.budget}'
            )
        return views[: self.budget]


# --------------------------------------------------------------------------------------- standard
#: 1, 1.04, and 0.08 to 1.10 in steps of 0.06; closest to 1 first
SCALES = sorted(
    {1.0, *(round(0.08 + 0.06 * step, 2) for step in range(18))}, key=lambda s: abs(s - 1)
)
FLIP = dict(type='mmcv.RandomFlip', prob=1.0, direction='horizontal')


@POLICIES.register_module()
class StandardPolicy(Policy):
    """Scales x five crops x flip: 190 views, 95 without flips (38 and 19 for segmentors).

    Scales go from 1 to 0.08 and 1.10, the closest to 1 first. Of every scale the centre crop comes
    first, then the corners; every crop is followed by its mirror image. Segmentors take scales and
    flips only, because a crop cannot be undone.

    Args:
        budget: see `Policy`.
        crop_size: ``(height, width)`` or one number for both, of the window that is cut out of the
            scaled image; None for the size of the unscaled image. Then all crops at scale 1 are the
            image itself, which is taken once: 182 views, or 91.
        flips: whether to add mirror images. Leave them out where a mirror image has another
            meaning, as with digits and letters.
        pad_val: grey value, or one per channel as loaded (BGR), around images that are smaller than
            the window.
    """

    def __init__(
        self,
        budget: int | None = None,
        crop_size: int | Sequence[int] | None = None,
        flips: bool = True,
        pad_val: float | Sequence[float] = GREY,
    ) -> None:
        super().__init__(budget)
        self.crop_size = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
        self.flips = (False, True) if flips else (False,)
        self.pad_val = pad_val

    def all_views(self, dense: bool) -> list[View]:
        corners = tuple(CORNERS)
        views = []
        for scale in SCALES:
            one = dense or (scale == 1 and self.crop_size is None)
            for corner, flip in product(corners[:1] if one else corners, self.flips):
                views.append(self._view(scale, corner, flip, dense))
        return views

    def _view(self, scale: float, corner: str, flip: bool, dense: bool) -> View:
        size, steps = self.crop_size, []
        if scale != 1:
            steps.append(dict(type='mmcv.Resize', scale_factor=scale, keep_ratio=True))
        if not dense and (scale != 1 or size):
            crop = dict(corner=corner, size=size, pad_val=self.pad_val)
            steps.append(dict(type='mmdiscard.CornerCrop', **crop))
        if flip:
            steps.append(FLIP)
        place = '' if dense else f', {corner}'
        return View(f'scale {scale:.2f}{place}{", flip" if flip else ""}', tuple(steps))


# --------------------------------------------------------------------------------------- expanded
def _aug(kind: str, **settings: Any) -> Step:
    """An augmentation of MMPretrain, with probability 1."""
    return dict(type=f'mmpretrain.{kind}', prob=1.0, **settings)


def _moving(kind: str, amount: str = 'magnitude', **settings: Any) -> Callable[[float], Step]:
    """Geometric augmentation of either sign; what moves in is grey."""
    settings |= dict(random_negative_prob=0.0, pad_val=GREY)
    return lambda value: _aug(kind, **settings, **{amount: value})


def _coloured(kind: str) -> Callable[[float], Step]:
    return lambda amount: _aug(kind, magnitude=amount, random_negative_prob=0.0)


SMALLEST_CUT, LARGEST_CUT = 2 / 224, 20 / 224
CUT_CENTRES = tuple(product((0.3, 0.5, 0.7), repeat=2))


def _graded(low: float, high: float, count: int = 10) -> list[float]:
    """Evenly spaced amounts, the smallest first."""
    step = (high - low) / (count - 1)
    return sorted((round(low + step * i, 4) for i in range(count)), key=lambda v: (abs(v), v))


def _operation(
    name: str, step: Callable[[float], Step], levels: Sequence[float], undone: bool = True
) -> list[View]:
    """Views of one operation at several levels; ``step`` turns a level into a transform."""
    return [View(f'{name} {level:g}', (step(level),), undone) for level in levels]


SINGLE = (
    View('identity'),
    View('flip left-right', (FLIP,)),
    View('flip up-down', (FLIP | dict(direction='vertical'),)),
    View('invert', (_aug('Invert'),)),
    View('blur', (_aug('GaussianBlur', radius=2),)),
    View('smooth', (_aug('GaussianBlur', radius=1),)),
    View('auto-contrast', (_aug('AutoContrast'),)),
    View('equalize', (_aug('Equalize'),)),
)
ALONG_X, ALONG_Y = dict(direction='horizontal'), dict(direction='vertical')
COLOUR = _graded(-0.9, 0.9)
GRADED = (
    _operation('posterize', lambda bits: _aug('Posterize', bits=int(bits)), (4, 3, 2, 1)),
    _operation('rotate', _moving('Rotate', 'angle'), _graded(-30, 30), undone=False),
    _operation(
        'crop', lambda m: dict(type='mmdiscard.Zoom', margin=m), _graded(0.005, 0.05), undone=False
    ),
    _operation('solarize', lambda thr: _aug('Solarize', thr=thr), _graded(24, 240)[::-1]),
    _operation('contrast', _coloured('Contrast'), COLOUR),
    _operation('saturation', _coloured('ColorTransform'), COLOUR),
    _operation('brightness', _coloured('Brightness'), COLOUR),
    _operation('sharpness', _coloured('Sharpness'), COLOUR),
    _operation('shear x', _moving('Shear', **ALONG_X), _graded(-0.3, 0.3), undone=False),
    _operation('shear y', _moving('Shear', **ALONG_Y), _graded(-0.3, 0.3), undone=False),
    _operation('translate x', _moving('Translate', **ALONG_X), _graded(-0.04, 0.04), False),
    _operation('translate y', _moving('Translate', **ALONG_Y), _graded(-0.04, 0.04), False),
    _operation(
        'cutout',
        lambda side: dict(
            type='mmdiscard.FixedCutout',
            side=side,
            centre=CUT_CENTRES[round(side * 1e4) % len(CUT_CENTRES)],
        ),
        _graded(SMALLEST_CUT, LARGEST_CUT),
    ),
)
TOTAL = 200


@POLICIES.register_module()
class ExpandedPolicy(Policy):
    """21 operations, 13 of them at several levels, then random pairs of these: 200 views.

    The operations are identity, flips, inversion, blur, smoothing, auto-contrast and equalization;
    posterize, rotate, crop, solarize, contrast, saturation, brightness, sharpness, shear, translate
    and cutout, mild levels first. Segmentors take those that can be undone.

    Args:
        budget: see `Policy`.
        flips: see `StandardPolicy`.
        seed: of the pairs, which are the same for every image.
    """

    def __init__(self, budget: int | None = None, flips: bool = True, seed: int = 0) -> None:
        super().__init__(budget)
        compat.require('mmpretrain', 'the transforms of ExpandedPolicy are its own')
        self.flips = flips
        self.seed = seed

    def all_views(self, dense: bool) -> list[View]:
        columns = [[view] for view in SINGLE] + list(GRADED)
        levels = chain.from_iterable(zip_longest(*columns))  # mild levels of all operations first
        singles = [view for view in levels if view is not None and self._fits(view, dense)]
        pairs = list(combinations(singles[1:], 2))
        random.Random(self.seed).shuffle(pairs)
        # MM keeps the direction of one flip only, so it cannot undo two.
        views = singles + [_pair(*pair) for pair in pairs if not all(map(_flips, pair))]
        return views[:TOTAL]

    def _fits(self, view: View, dense: bool) -> bool:
        return (view.undone or not dense) and (self.flips or not _flips(view))


def _flips(view: View) -> bool:
    return any(step['type'] == FLIP['type'] for step in view.steps)


def _pair(first: View, second: View) -> View:
    return View(
        f'{first.name} + {second.name}', first.steps + second.steps, first.undone and second.undone
    )

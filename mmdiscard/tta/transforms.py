"""Transforms that make the views of test-time augmentation."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform, Compose

from ..errors import MMDiscardError
from ..models.views import VIEW
from ..registry import POLICIES, TRANSFORMS, build

#: (y, x) of a window: 0 is top or left, 1 bottom or right
CORNERS = {
    'centre': (0.5, 0.5),
    'top left': (0.0, 0.0),
    'bottom left': (1.0, 0.0),
    'bottom right': (1.0, 1.0),
    'top right': (0.0, 1.0),
}
SIZE = 'view_size'  # size of the image before its views are made


@TRANSFORMS.register_module()
class CornerCrop(BaseTransform):
    """Cut a window out of the centre or a corner.

    Args:
        corner: one of `CORNERS`.
        size: ``(height, width)`` of the window; None for the size of the image before its view was
            made.
        pad_val: grey value, or one per channel as loaded (BGR), of the padding of an image that is
            smaller than the window, which is placed in that corner of it; None to refuse such
            images.

    Raises:
        MMDiscardError: if the corner is unknown.
    """

    def __init__(
        self,
        corner: str = 'centre',
        size: Sequence[int] | None = None,
        pad_val: float | Sequence[float] | None = None,
    ) -> None:
        if corner not in CORNERS:
            raise MMDiscardError(f'CornerCrop: {corner!r} is none of {", ".join(CORNERS)}')
        self.corner = corner
        self.size = size
        self.pad_val = pad_val

    def transform(self, results: dict) -> dict:
        """Cut the window out of ``results['img']``.

        Raises:
            MMDiscardError: if the window is larger than the image and ``pad_val`` is None.
        """
        image = results['img']
        window = tuple(self.size or results[SIZE])
        if self.pad_val is None and any(
            want > have for want, have in zip(window, image.shape[:2], strict=True)
        ):
            raise MMDiscardError(
                f'a crop of {window[0]} x {window[1]} is larger than the image, which is '
                f'{image.shape[0]} x {image.shape[1]} by then; set pad_val, or take another scale'
            )
        results['img'] = self._cut(image, window)
        results['img_shape'] = window
        return results

    def _cut(self, image: np.ndarray, window: tuple[int, int]) -> np.ndarray:
        out = np.empty((*window, *image.shape[2:]), image.dtype)
        out[:] = 0 if self.pad_val is None else self.pad_val
        into, of = [], []
        for want, have, side in zip(window, image.shape[:2], CORNERS[self.corner], strict=True):
            first, kept = round(abs(have - want) * side), min(want, have)
            into.append(slice(first, first + kept) if want > have else slice(0, kept))
            of.append(slice(first, first + kept) if want <= have else slice(0, kept))
        out[tuple(into)] = image[tuple(of)]
        return out


@TRANSFORMS.register_module()
class Zoom(BaseTransform):
    """Cut a margin off every side and resize to the original size.

    ``margin`` is a fraction of the shorter side, in 0..0.5.
    """

    def __init__(self, margin: float) -> None:
        self.margin = margin

    def transform(self, results: dict) -> dict:
        """Zoom into ``results['img']``."""
        image = results['img']
        height, width = image.shape[:2]
        cut = round(min(height, width) * self.margin)
        inner = image[cut : height - cut, cut : width - cut]
        results['img'] = mmcv.imresize(inner, (width, height))
        return results


@TRANSFORMS.register_module()
class FixedCutout(BaseTransform):
    """Paint a square at a fixed position.

    Args:
        side: of the square, as a fraction of the shorter side of the image.
        centre: (y, x) of its centre, as fractions of height and width.
        pad_val: grey value, or one per channel as loaded (BGR), of the square.
    """

    def __init__(
        self,
        side: float,
        centre: Sequence[float] = (0.5, 0.5),
        pad_val: float | Sequence[float] = 128,
    ) -> None:
        self.side = side
        self.centre = centre
        self.pad_val = pad_val

    def transform(self, results: dict) -> dict:
        """Paint into a copy of ``results['img']``."""
        image = results['img'].copy()
        half = max(1, round(min(image.shape[:2]) * self.side)) / 2
        top, left = (
            round(size * at - half) for size, at in zip(image.shape[:2], self.centre, strict=True)
        )
        bottom, right = top + round(2 * half), left + round(2 * half)
        image[max(top, 0) : bottom, max(left, 0) : right] = self.pad_val
        results['img'] = image
        return results


@TRANSFORMS.register_module()
class TestTimePolicy(BaseTransform):
    """Make all views of a policy, in the form that MMCV's `TestTimeAug` returns.

    Args:
        policy: config of a policy.
        pack: steps that follow the transforms of a view: the packing step, for segmentors with
            the loading of annotations (which are not augmented) before it.
        dense: whether the model is a segmentor, see `Policy.views`.

    Raises:
        MMDiscardError: if the policy has fewer views than its budget.
    """

    __test__ = False  # pytest would take it for a test

    def __init__(
        self,
        policy: Mapping[str, Any],
        pack: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        dense: bool = False,
    ) -> None:
        last = [pack] if isinstance(pack, Mapping) else list(pack)
        views = build(POLICIES, policy).views(dense)
        self.views = {
            view.name: (
                Compose([TRANSFORMS.build(dict(step)) for step in view.steps]),
                Compose([TRANSFORMS.build(dict(step)) for step in last]),
            )
            for view in views
        }

    def transform(self, results: dict) -> dict:
        """Make every view: lists of ``inputs`` and ``data_samples``.

        Raises:
            MMDiscardError: if a view cannot be made; names it.
        """
        results[SIZE] = tuple(results['img'].shape[:2])
        packed = [self._make(name, copy.deepcopy(results)) for name in self.views]
        return {key: [view[key] for view in packed] for key in packed[0]}

    def _make(self, name: str, results: dict) -> dict:
        steps, pack = self.views[name]
        try:
            packed = pack(steps(results))
        except Exception as error:  # of MM, OpenCV or Pillow
            height, width = results[SIZE]
            raise MMDiscardError(
                f'the view {name!r} of {results.get("img_path", "an image")} ({height} x {width}) '
                f'cannot be made: {error}'
            ) from error
        packed['data_samples'].set_metainfo({VIEW: name})
        return packed

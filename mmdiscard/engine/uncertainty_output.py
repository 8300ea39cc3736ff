"""Confidence and disagreement as files and in drawn predictions."""

from collections.abc import Callable
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.dist import is_main_process
from mmengine.visualization import Visualizer

from ..models.method_patch import MethodPatch
from ..models.uncertainty import CONFIDENCE, DISAGREEMENT, fields_of
from ..utils import write_atomically

SUFFIX = '_uncertainty'


def write_maps(sample: Any, folder: Path) -> None:
    """Write both maps of a segmented image as ``FOLDER/NAME_uncertainty.npz``, in float16."""
    maps = [value.half().cpu().numpy() for value in fields_of(sample)]
    arrays = dict(zip((CONFIDENCE, DISAGREEMENT), maps, strict=True))

    def save(path: Path) -> None:
        with open(path, 'wb') as file:
            np.savez_compressed(file, **arrays)

    write_atomically(folder / f'{Path(sample.img_path).stem}{SUFFIX}.npz', save)


def panels(sample: Any) -> np.ndarray:
    """Both maps of a segmented image side by side, ``(H, 2 W, 3)`` uint8 RGB, bright where unsure.

    On the left 1 - confidence, on the right the root of the disagreement, which of two states is
    from 0 to 1 and a distance (Endres and Schindelin, A new metric for probability distributions,
    2003). The scale is fixed from 0, black, to 1, so that images can be compared.
    """
    confidence, disagreement = fields_of(sample)
    both = np.concatenate([(1 - confidence).cpu().numpy(), disagreement.sqrt().cpu().numpy()], 1)
    grey = (both.clip(0, 1) * 255).astype(np.uint8)
    return cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO)[..., ::-1]


class DrawnUncertainty:
    """Lets a visualizer of MM draw how sure a prediction is whenever it draws the prediction.

    Of a segmented image `panels` become an image of their own, named as that of the prediction with
    ``_uncertainty`` behind it; on a classified image the two scores are written.
    """

    def __init__(self, visualizer: Visualizer) -> None:
        self.visualizer = visualizer
        self._patches = [
            MethodPatch(visualizer, name, partial(draw, getattr(visualizer, name)))
            for name, draw in (
                ('add_datasample', self._draw_maps),
                ('visualize_cls', self._draw_scores),
            )
            if hasattr(visualizer, name)
        ]

    def remove(self) -> None:
        """Leave the visualizer as it was."""
        while self._patches:
            self._patches.pop().remove()

    def _draw_maps(self, draw: Callable, *args: Any, **kwargs: Any) -> Any:
        drawn, given = draw(*args, **kwargs), _arguments(draw, args, kwargs)
        sample = given['data_sample']
        if sample is not None and fields_of(sample) is not None and is_main_process():
            self._put(panels(sample), f'{given["name"]}{SUFFIX}', given)
        return drawn

    def _draw_scores(self, draw: Callable, *args: Any, **kwargs: Any) -> Any:
        drawn, given = draw(*args, **kwargs), _arguments(draw, args, kwargs)
        fields = fields_of(given['data_sample'])
        if fields is not None and is_main_process():
            self.visualizer.set_image(drawn)
            height = len(drawn)
            self.visualizer.draw_texts(
                f'{CONFIDENCE} {float(fields[0]):.2f}\n{DISAGREEMENT} {float(fields[1]):.3f} bits',
                np.array([2, height - 2]),
                font_sizes=max(6, height // 30),
                colors='w',
                vertical_alignments='bottom',
                bboxes=dict(facecolor='k', alpha=0.6, pad=1, edgecolor='none'),
            )
            self._put(self.visualizer.get_image(), given['name'], given, suffix='')
        return drawn

    def _put(self, image: np.ndarray, name: str, given: dict, suffix: str = SUFFIX) -> None:
        """Put the drawn image where the prediction went: file, window or visualizer backends."""
        if given['show']:
            self.visualizer.show(image, win_name=name, wait_time=given['wait_time'])
        if given['out_file'] is None:
            self.visualizer.add_image(name, image, given['step'])
            return
        import mmcv  # not needed to import mmdiscard

        path = Path(given['out_file'])
        mmcv.imwrite(image[..., ::-1], str(path.with_name(f'{path.stem}{suffix}{path.suffix}')))


def _arguments(method: Callable, args: tuple, kwargs: dict) -> dict[str, Any]:
    """All arguments of a call by name, defaults included."""
    bound = signature(method).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments

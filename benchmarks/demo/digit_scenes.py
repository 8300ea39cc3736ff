"""Cluttered scenes of real handwriting, written to disk as images.

The handwriting is scikit-learn's ``load_digits``: 1797 scans of 8 x 8 pixels, shipped with that
library. A scene shows whole digits at random places, sizes, slants and colours, on a
background of a colour gradient, smooth blotches and pixel noise, among distractors: pen strokes
and fragments of other digits. All ink is darker than what it is drawn on. Nothing in a scene
depends on a network or on a stride.

- ``classification/{train,val,test}/<digit>/*.png``: one whole digit per scene, its class is the
  folder. The layout of mmpretrain's ``CustomDataset``.
- ``segmentation/images/{train,val,test}/*.png`` and ``segmentation/labels/...``: several digits
  per scene; a label pixel is 0 (background, strokes and fragments too) or digit + 1. The layout of
  mmseg's ``BaseSegDataset``.

The scans are divided among the splits before anything is drawn, so that no piece of handwriting
seen in training, not even as a fragment, appears in validation or test.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from benchmarks.demo.scene_composer import compose_scene

SPLITS = ('train', 'val', 'test')
MANIFEST = 'manifest.json'
FORMAT = 1
"""Raised whenever the same parameters would give other images."""


@dataclass(frozen=True)
class DigitSceneParams:
    """What the scenes look like and how many there are.

    Attributes:
        seed: any integer >= 0; the same parameters give the same files.
        handwriting: share of the scans given to train, val and test; they sum to 1.
        seg_images: number of segmentation scenes in train, val, test.
        seg_size: their height and width in pixels.
        seg_digits: fewest and most digits in one.
        seg_glyph_px: smallest and largest height of a digit in pixels.
        cls_images, cls_size, cls_glyph_px: the same for classification (always one digit).
        fragments: fewest and most digit fragments per scene, as clutter.
    """

    seed: int = 0
    handwriting: tuple[float, float, float] = (0.6, 0.15, 0.25)
    seg_images: tuple[int, int, int] = (3200, 300, 400)
    seg_size: int = 96
    seg_digits: tuple[int, int] = (4, 7)
    seg_glyph_px: tuple[float, float] = (22.0, 36.0)
    cls_images: tuple[int, int, int] = (4000, 300, 600)
    cls_size: int = 64
    cls_glyph_px: tuple[float, float] = (32.0, 54.0)
    fragments: tuple[int, int] = (1, 3)


def make_digit_scenes(root: str | os.PathLike, params: DigitSceneParams | None = None) -> Path:
    """Write the scenes, or reuse those that are already there.

    A folder whose manifest names the same parameters is kept as it is. One with other parameters is
    replaced. The new folder takes its name only when complete, so an interruption leaves either
    the old scenes or none.

    Args:
        root: folder of the scenes; its parents are created.
        params: what to draw; the defaults are what ``configs/demo`` is tuned for.

    Returns:
        ``root`` as an absolute path.

    Raises:
        ImportError: scikit-learn is not installed.
        FileExistsError: ``root`` exists and was not written by this function.
        OSError: a file cannot be written.
    """
    root, params = Path(root).absolute(), params or DigitSceneParams()
    if _is_current(root, params):
        return root
    scans = split_handwriting(params)
    root.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, hence on the same file system: only then is a rename atomic.
    with tempfile.TemporaryDirectory(prefix=f'.{root.name}-', dir=root.parent) as scratch:
        new = Path(scratch, 'new')
        for index, split in enumerate(SPLITS):
            _write_segmentation(new, index, scans[split], params)
            _write_classification(new, index, scans[split], params)
        (new / MANIFEST).write_text(_manifest(params), encoding='utf-8')
        _publish(new, root, Path(scratch, 'old'), params)
    return root


def split_handwriting(
    params: DigitSceneParams,
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Divide the scans among the splits.

    Returns:
        For each split: ink ``(n, 8, 8)`` float32 in [0, 1], digits ``(n,)`` in 0..9 and the index
        ``(n,)`` of each scan in ``load_digits``. Every scan is in one split only.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError('the digit scenes need scikit-learn: pip install scikit-learn') from error
    data = load_digits()
    order = np.random.default_rng(params.seed).permutation(len(data.target))
    cuts = np.round(np.cumsum(params.handwriting)[:2] * len(order)).astype(int)
    ink = (data.images / 16).astype(np.float32)
    return {
        split: (ink[part], data.target[part], part)
        for split, part in zip(SPLITS, np.split(order, cuts), strict=True)
    }


def _manifest(params: DigitSceneParams) -> str:
    return json.dumps(dict(format=FORMAT, params=asdict(params)), indent=2) + '\n'


def _is_current(root: Path, params: DigitSceneParams) -> bool:
    """Whether ``root`` holds these scenes; ``FileExistsError`` if it holds something else."""
    if (root / MANIFEST).is_file():
        return (root / MANIFEST).read_text(encoding='utf-8') == _manifest(params)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(
            f'{root} exists and holds no digit scenes (no {MANIFEST}); '
            'name another folder or remove it'
        )
    return False


def _publish(new: Path, root: Path, old: Path, params: DigitSceneParams) -> None:
    """Give the finished folder its name, moving what had it out of the way."""
    try:
        if root.exists():
            os.replace(root, old)
        os.replace(new, root)
    except OSError:
        # Another process may have finished the same scenes in the meantime: then use those.
        if not _is_current(root, params):
            raise


def _write_segmentation(root: Path, split: int, scans, params: DigitSceneParams) -> None:
    ink, digits, _ = scans
    folders = [root / 'segmentation' / kind / SPLITS[split] for kind in ('images', 'labels')]
    for folder in folders:
        folder.mkdir(parents=True)
    for number in range(params.seg_images[split]):
        rng = np.random.default_rng((params.seed, 0, split, number))
        shown = rng.choice(len(ink), rng.integers(*params.seg_digits, endpoint=True), replace=False)
        pair = compose_scene(
            ink[shown],
            digits[shown],
            _fragments(ink, params, rng),
            params.seg_size,
            params.seg_glyph_px,
            rng,
        )
        for folder, pixels in zip(folders, pair, strict=True):
            _write_png(folder / f'{number:05d}.png', pixels)


def _write_classification(root: Path, split: int, scans, params: DigitSceneParams) -> None:
    ink, digits, _ = scans
    folder = root / 'classification' / SPLITS[split]
    for digit in range(10):
        (folder / str(digit)).mkdir(parents=True)
    for number in range(params.cls_images[split]):
        rng = np.random.default_rng((params.seed, 1, split, number))
        digit = number % 10
        shown = rng.choice(np.flatnonzero(digits == digit), 1)
        image, _ = compose_scene(
            ink[shown],
            digits[shown],
            _fragments(ink, params, rng),
            params.cls_size,
            params.cls_glyph_px,
            rng,
        )
        _write_png(folder / str(digit) / f'{number:05d}.png', image)


def _fragments(ink: np.ndarray, params: DigitSceneParams, rng: np.random.Generator) -> np.ndarray:
    count = rng.integers(*params.fragments, endpoint=True)
    return ink[rng.choice(len(ink), count, replace=False)]


def _write_png(path: Path, pixels: np.ndarray) -> None:
    # Light compression: the noise does not compress anyway.
    if not cv2.imwrite(str(path), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1]):
        raise OSError(f'cannot write {path}')

"""Picture of unsure windows: where a segmentor computed states, and what that changed.

    python -m benchmarks.real.windows_picture CONFIG CHECKPOINT --images 3 --cost 1.4

A row per test image: the image with its windows, the truth, the plain prediction, and the pixels
that changed: green became right, red became wrong, blue changed from one wrong class to another.
Images are spread evenly over the set.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.config import Config, DictAction
from torch import nn

import mmdiscard
from benchmarks.common.figures import label_colours, pyplot, save_figure
from mmdiscard.engine.load_runner import load_runner

TITLES = ('image and windows', 'truth', 'plain', 'what changed')
UNCHANGED, MENDED, BROKEN, OTHER = (235, 235, 235), (0, 150, 60), (210, 30, 30), (60, 90, 220)
IGNORED = 255


def labels_of(model: nn.Module, batch: Any) -> np.ndarray:
    """Predicted labels ``(H, W)`` of the only image of a batch."""
    return model.test_step(batch)[0].pred_sem_seg.data[0].numpy()


def changes(truth: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """RGB picture ``(H, W, 3)`` of what changed between two predictions.

    Args:
        truth: labels ``(H, W)``.
        before: the first prediction.
        after: the second prediction.
    """
    picture = np.full((*truth.shape, 3), UNCHANGED, dtype=np.uint8)
    changed = (before != after) & (truth != IGNORED)
    picture[changed] = OTHER
    picture[changed & (after == truth)] = MENDED
    picture[changed & (before == truth)] = BROKEN
    return picture


def boxes_in(windows: Sequence[Sequence[int]], size: Sequence[int], shape: Sequence[int]) -> list:
    """Windows in pixels of the original image, as left, top, width and height.

    Args:
        windows: top, left, height and width in the images that the model saw.
        size: ``(H, W)`` of these images.
        shape: ``(H, W)`` of the original image.
    """
    down, right = (original / seen for original, seen in zip(shape, size, strict=True))
    return [
        (left * right, top * down, width * right, height * down)
        for top, left, height, width in windows
    ]


def rows_of(config: Config, checkpoint: Path, where: dict, count: int) -> Iterator[tuple]:
    """Per image: picture, windows, truth, plain prediction, prediction with windows.

    Args:
        config: of a segmentor, with a test set of batches of one image.
        checkpoint: its weights.
        where: option of `mmdiscard.attach`.
        count: number of images.
    """
    runner = load_runner(config, str(checkpoint))
    model, loader = runner.model, runner.test_dataloader
    for batch in islice(loader, 0, None, max(1, len(loader) // count)):
        sample = batch['data_samples'][0]
        before = labels_of(model, batch)
        with mmdiscard.attach(model, where=where) as ensemble:
            after = labels_of(model, batch)
            windows, size = ensemble.last.windows[0], ensemble.last.size
        truth = sample.gt_sem_seg.data[0].numpy()
        picture = mmcv.imread(sample.img_path, channel_order='rgb')
        yield picture, boxes_in(windows, size, truth.shape), truth, before, after


def draw(rows: Sequence[tuple], palette: Sequence[Sequence[int]], path: Path) -> None:
    """Write the picture.

    Args:
        rows: as `rows_of` gives them.
        palette: RGB colour of every class, 0..255.
        path: picture file.
    """
    colours = label_colours(palette)
    plt = pyplot()
    figure, axes = plt.subplots(len(rows), 4, figsize=(11, 2.5 * len(rows)), squeeze=False)
    for line, (picture, boxes, truth, before, after) in zip(axes, rows, strict=True):
        shown = (picture, colours[truth], colours[before], changes(truth, before, after))
        for axis, what in zip(line, shown, strict=True):
            axis.imshow(what, interpolation='nearest')
            axis.set_axis_off()
        for left, top, width, height in boxes:
            edges = dict(fill=False, edgecolor='yellow', linewidth=1.5)
            line[0].add_patch(plt.Rectangle((left, top), width, height, **edges))
    for axis, title in zip(axes[0], TITLES, strict=True):
        axis.set_title(title)
    save_figure(figure, path)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', type=Path)
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('--images', type=int, default=3)
    parser.add_argument('--cost', type=float, default=1.4)
    parser.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'), help='of a window')
    parser.add_argument('--halo', type=int, default=16)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/real/windows.png'))
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    config = Config.fromfile(args.config)
    config.work_dir = str(args.out.parent)
    config.merge_from_dict(args.cfg_options or {})
    where = dict(cost=args.cost, halo=args.halo) | (dict(size=args.size) if args.size else {})
    rows = list(rows_of(config, args.checkpoint, where, args.images))
    palette = config.test_dataloader.dataset.metainfo.palette
    draw(rows[: args.images], palette, args.out)
    return 0


if __name__ == '__main__':
    sys.exit(main())

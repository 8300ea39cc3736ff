"""Logits of real classifiers for states, views and displaced images, each computed once per image.

    python -m benchmarks.real.classifiers IMAGES --models efficientnet_lite0 --sizes 224 160 128

IMAGES is a folder with `images/` and `labels.txt` (lines of file name and class 0..999) of ImageNet
validation images. Weights are those of `benchmarks.real.convert_weights`. Writes one file per
model, size and corruption into `work_dirs/real/logits/`; a file that is there already is not made
again. What can be made of them is computed by `benchmarks.real.report`.
"""

import argparse
import io
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mmengine.runner import load_checkpoint
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torchvision.transforms import functional as TF

import mmdiscard
from mmdiscard.models import Ensemble
from mmdiscard.utils import Progress

from .segmentor_atoms import moved

WEIGHTS = Path('work_dirs/real/weights')
LOGITS = Path('work_dirs/real/logits')
BATCH = 10
Views = Mapping[str, Tensor]
AVERAGE = dict(type='AverageAggregator', on='logits', align='none')
PAPER = dict(
    subsampling=dict(groups='inner'),
    search=dict(type='GreedySearch', budget=10, criterion=dict(type='EntropyCriterion')),
    aggregator=dict(type='EntropyAggregator', on='features', align='bilinear'),
)


@dataclass(frozen=True)
class Classifier:
    """A model with the crop that it is tested with.

    Attributes:
        config: of the model.
        weights: name of the converted checkpoint.
        size: side of the images it was trained for, in pixels.
        crop: share of the image's shorter side that is kept.
        upside_down: whether it expects images rotated by 180 degrees.
    """

    config: dict
    weights: str
    size: int = 224
    crop: float = 0.875
    upside_down: bool = False


def _lite(index: int, size: int, crop: float) -> Classifier:
    name = f'efficientnet_lite{index}'
    config = dict(type='TimmClassifier', model_name=f'tf_{name}', num_classes=1000)
    return Classifier(config, name, size, crop)


MODELS = {
    'efficientnet_lite0': _lite(0, 224, 0.875),
    'efficientnet_lite1': _lite(1, 240, 0.882),
    'efficientnet_lite2': _lite(2, 260, 0.890),
    'mobilenet_v2': Classifier(
        dict(
            type='ImageClassifier',
            backbone=dict(type='MobileNetV2', widen_factor=1.0),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(
                type='LinearClsHead',
                num_classes=1000,
                in_channels=1280,
                loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
            ),
        ),
        'mobilenet_v2',
        upside_down=True,
    ),
}


def choosing(count: int) -> np.ndarray:
    """Which of so many images choose (a half, drawn with seed 0); the others report: ``(N,)``."""
    chooses = np.zeros(count, bool)
    chooses[np.random.default_rng(0).permutation(count)[: count // 2]] = True
    return chooses


def noisy(image: Image.Image, seed: int) -> Image.Image:
    """Gaussian noise with a standard deviation of 25 of 255."""
    noise = np.random.default_rng(seed).normal(0, 25, (*image.size[::-1], 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def blurred(image: Image.Image, seed: int) -> Image.Image:
    """Gaussian blur with a standard deviation of 1.5 pixels."""
    return image.filter(ImageFilter.GaussianBlur(1.5))


def compressed(image: Image.Image, seed: int) -> Image.Image:
    """JPEG of quality 15."""
    buffer = io.BytesIO()
    image.save(buffer, 'jpeg', quality=15)
    return Image.open(buffer).convert('RGB')


CORRUPTIONS: dict[str, Callable[[Image.Image, int], Image.Image] | None] = {
    'none': None,
    'noise': noisy,
    'blur': blurred,
    'jpeg': compressed,
}


def build(classifier: Classifier) -> nn.Module:
    """The model with its weights, in evaluation mode."""
    from mmpretrain.registry import MODELS as MMPRETRAIN
    from mmpretrain.utils import register_all_modules

    register_all_modules()
    model = MMPRETRAIN.build(classifier.config)
    file = WEIGHTS / f'{classifier.weights}_classifier.pth'
    load_checkpoint(model, str(file), map_location='cpu', strict=True)
    # The memory layout in which depthwise convolutions are fast on a CPU.
    return model.eval().to(memory_format=torch.channels_last)


def load(path: Path, classifier: Classifier, size: int, corruption: str, shift: int = 0) -> Tensor:
    """An image resized (bicubic), cropped, and scaled to -1..1: ``(3, size, size)``.

    Args:
        path: of the image.
        classifier: whose crop is used.
        size: side in pixels.
        corruption: a key of `CORRUPTIONS`, applied before resizing.
        shift: the crop lies so many pixels further down and right.
    """
    image = Image.open(path).convert('RGB')
    corrupt = CORRUPTIONS[corruption]
    if corrupt:
        image = corrupt(image, int(path.stem.split('_')[-1]))
    image = TF.resize(image, round(size / classifier.crop), TF.InterpolationMode.BICUBIC)
    top, left = ((side - size) // 2 + shift for side in image.size[::-1])
    tensor = TF.to_tensor(TF.crop(image, top, left, size, size)) * 2 - 1
    return tensor.flip(-2, -1) if classifier.upside_down else tensor


def displaced(images: Tensor, pixels: int) -> Tensor:
    """Content moved up and left by so many pixels, the edges repeated: ``(N, C, H, W)``."""
    return moved(images, -pixels, -pixels)


def plain(model: nn.Module, views: Views) -> Iterator[tuple[str, Tensor]]:
    """Names and logits ``(N, 1000)`` of views and of displaced images.

    Args:
        model: a classifier.
        views: the batch by name of the view, each ``(N, 3, H, W)``.
    """
    moved = {f'image {pixels}': displaced(views['plain'], pixels) for pixels in (4, 8, 16)}
    for name, images in (views | moved).items():
        logits = model(images, mode='tensor')
        yield name, logits[-1] if isinstance(logits, tuple) else logits


def states(ensemble: Ensemble, group: int, views: Views) -> Iterator[tuple[str, Tensor]]:
    """Names and logits ``(N, 1000)`` of the displaced states of one group.

    Args:
        ensemble: attached with this group alone.
        group: its position.
        views: as for `plain`.
    """
    for view in ('plain', 'flip', 'shift 1'):
        indices = (1, 2, 3) if view == 'plain' else (3,)
        for index, logits in _logits(ensemble, views[view], indices).items():
            yield f'group {group} state {index} {view}', logits


def paper(ensemble: Ensemble, views: Views) -> Iterator[tuple[str, Tensor]]:
    """Name and logits ``(N, 1000)`` of the paper's ten states per image."""
    yield 'paper', ensemble.predict(views['plain'])


def _logits(ensemble: Ensemble, images: Tensor, indices: Sequence[int]) -> dict[int, Tensor]:
    """Logits ``(N, K)`` of states of the only group, computed with the default state."""
    states = torch.tensor([[0], *([index] for index in indices)])
    of_row: dict[tuple[int, int], Tensor] = {}
    for part in ensemble.explore(images, states):
        rows = zip(part.rows.images.tolist(), part.rows.states[:, 0].tolist(), strict=True)
        of_row |= dict(zip(rows, part.logits, strict=True))
    return {i: torch.stack([of_row[n, i] for n in range(len(images))]) for i in indices}


@torch.no_grad()
def run(folder: Path, name: str, size: int, corruption: str, count: int | None) -> None:
    """Compute the logits of one model at one size, unless they are there.

    Args:
        folder: of images and labels.
        name: of the model.
        size: side of the images in pixels.
        corruption: a key of `CORRUPTIONS`.
        count: so many images only; None for all.
    """
    classifier, out = MODELS[name], LOGITS / f'{name}_{size}_{corruption}.npz'
    if out.is_file():
        return
    lines = (folder / 'labels.txt').read_text().splitlines()[:count]
    files = [line.split() for line in lines]
    computing = [partial(plain, build(classifier))]
    costs = {}
    for group in (-1, -2, 0):
        ensemble = _attach(classifier, size, group)
        costs[f'group {group}'] = ensemble.prices.of([[0], [3]])
        computing.append(partial(states, ensemble, group))
    if corruption == 'none' and size == classifier.size:
        ensemble = mmdiscard.attach(build(classifier), **PAPER)
        computing.append(partial(paper, ensemble))
    progress = Progress(math.ceil(len(files) / BATCH), f'batches of {out.stem}')
    logits: dict[str, list[Tensor]] = {}
    for start in range(0, len(files), BATCH):
        paths = [folder / 'images' / file for file, _ in files[start : start + BATCH]]
        views = _views(paths, classifier, size, corruption)
        for atoms in computing:
            for atom, values in atoms(views):
                logits.setdefault(atom, []).append(values.half())
        progress.step()
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        out,
        labels=np.array([int(label) for _, label in files]),
        costs=json.dumps(costs),
        **{atom: torch.cat(values).numpy() for atom, values in logits.items()},
    )


def _attach(classifier: Classifier, size: int, group: int) -> Ensemble:
    return mmdiscard.attach(
        build(classifier),
        subsampling=dict(groups=[group], input_size=(size, size)),
        search=dict(type='SpreadStates', budget=4),
        aggregator=AVERAGE,
    )


def _views(paths: Sequence[Path], classifier: Classifier, size: int, corruption: str) -> Views:
    def of(side: int, shift: int = 0) -> Tensor:
        return torch.stack([load(path, classifier, side, corruption, shift) for path in paths])

    views = {'plain': of(size), 'larger': of(_near(size, 1.15)), 'smaller': of(_near(size, 0.87))}
    return views | {'shift 1': of(size, 1), 'flip': views['plain'].flip(-1)}


def _near(size: int, factor: float) -> int:
    """A multiple of 32 pixels near ``factor * size``, other than ``size``."""
    nearest = round(size * factor / 32) * 32
    return nearest if nearest != size else size + (32 if factor > 1 else -32)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('images', type=Path)
    parser.add_argument('--models', nargs='+', choices=MODELS, default=list(MODELS))
    parser.add_argument('--sizes', nargs='+', type=int, default=[0, 160, 128], help='0: its own')
    parser.add_argument('--corruptions', nargs='+', choices=CORRUPTIONS, default=['none'])
    parser.add_argument('--count', type=int, help='so many images only')
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    for name in args.models:
        for size in args.sizes:
            for corruption in args.corruptions:
                run(args.images, name, size or MODELS[name].size, corruption, args.count)
    return 0


if __name__ == '__main__':
    sys.exit(main())

"""Folders as MM's datasets expect them, with four small real photographs, and random checkpoints.

The images are crops of the two photographs that scikit-learn ships. Their labels are made from
their brightness, so that there are several classes, borders follow the image, and some is ignored.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from sklearn.datasets import load_sample_images
from small_models import randomize
from torch import nn

NAMES = ('one', 'two', 'three', 'four')
# Odd on purpose: nothing divides evenly.
HEIGHT, WIDTH = 67, 101


def photographs() -> Iterator[tuple[str, np.ndarray]]:
    """Name and ``(H, W, 3)`` RGB pixels of each of the four images."""
    china, flower = load_sample_images().images
    corners = ((china, 40, 60), (china, 200, 300), (flower, 100, 150), (flower, 180, 280))
    for name, (image, top, left) in zip(NAMES, corners, strict=True):
        crop = image[top : top + 2 * HEIGHT, left : left + 2 * WIDTH]
        yield name, np.asarray(Image.fromarray(crop).resize((WIDTH, HEIGHT)))


def brightness_labels(image: np.ndarray, num_labels: int, ignored: int) -> np.ndarray:
    """``(H, W)`` labels 0 .. num_labels - 1 by brightness; the top rows are ``ignored``."""
    labels = (image.mean(axis=2) / 256 * num_labels).astype(np.uint8)
    labels[:5] = ignored
    return labels


def _save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_imagenet(root: Path) -> Path:
    """ImageNet's flat form: ``val/*.JPEG`` and ``meta/val.txt`` with a class number per image."""
    lines = []
    for label, (name, image) in enumerate(photographs()):
        _save(image, root / 'val' / f'{name}.JPEG')
        lines.append(f'{name}.JPEG {label * 250}\n')
    (root / 'meta').mkdir(exist_ok=True)
    (root / 'meta' / 'val.txt').write_text(''.join(lines))
    return root


def write_cityscapes(root: Path) -> Path:
    """``leftImg8bit/val/<city>`` and ``gtFine/val/<city>`` with train ids, 255 for ignored."""
    image, label = 'leftImg8bit/val/hangzhou/{}_leftImg8bit.png', 'gtFine/val/hangzhou/{}'
    return _write_pairs(root, image, f'{label}_gtFine_labelTrainIds.png', 19, 255)


def write_ade20k(root: Path) -> Path:
    """``images/validation`` and ``annotations/validation``, labels 1 .. 150 and 0 for ignored."""
    return _write_pairs(root, 'images/validation/{}.jpg', 'annotations/validation/{}.png', 150, 0)


def write_coco_stuff(root: Path) -> Path:
    """``images/val2017`` and ``annotations/val2017`` with train ids, 255 for ignored."""
    label = 'annotations/val2017/{}_labelTrainIds.png'
    return _write_pairs(root, 'images/val2017/{}.jpg', label, 171, 255)


def _write_pairs(root: Path, image_path: str, label_path: str, classes: int, ignored: int) -> Path:
    for name, image in photographs():
        _save(image, root / image_path.format(name))
        labels = brightness_labels(image, num_labels=classes, ignored=ignored)
        _save(labels, root / label_path.format(name))
    return root


WRITERS = {'imagenet': write_imagenet, 'cityscapes': write_cityscapes, 'ade20k': write_ade20k}


def build_model(cfg: Config) -> nn.Module:
    """The config's model with random weights, in evaluation mode; nothing is downloaded."""
    init_default_scope(cfg.default_scope)
    model_cfg = dict(cfg.model)
    if 'data_preprocessor' in cfg:  # as the Runner does
        model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)
    return randomize(MODELS.build(model_cfg))


def write_checkpoint(cfg: Config, path: Path) -> Path:
    """A checkpoint as a Runner writes it, with random weights of the config's model."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({'meta': {}, 'state_dict': build_model(cfg).state_dict()}, path)
    return path


def small_input(cfg: Config, root: Path) -> list[str]:
    """Overrides for ``--cfg-options``: read from ``root``, at a size fit for a test."""
    options = [
        f'test_dataloader.dataset.data_root={root}',
        'test_dataloader.num_workers=0',
        'test_dataloader.batch_size=2',
    ]
    if cfg.default_scope == 'mmpretrain':
        return options + _small_classifier_input(cfg)
    return options + _small_segmentor_input(cfg)


# Sides in pixels of what a classifier is tested on, where less than 64 would not run: windows and
# position embeddings of a fixed size, and a last map that has to hold one cell.
SMALLEST = {
    'SwinTransformer': 224,
    'SwinTransformerV2': 256,
    'EfficientFormer': 224,
    'InceptionV3': 96,
    'coat_lite_tiny': 224,
}


def _small_classifier_input(cfg: Config) -> list[str]:
    side = SMALLEST.get(cfg.model.get('model_name') or cfg.model.backbone.type, 64)
    steps = list(_steps('test_dataloader.dataset.pipeline', cfg.test_dataloader.dataset.pipeline))
    steps += _steps('tta_pipeline', cfg.get('tta_pipeline', []))
    options = []
    for number, (key, step) in enumerate(steps):
        if step['type'] == 'ResizeEdge':  # not the same size twice: views have to differ
            options.append(f'{key}.scale={side + 8 + number}')
        elif step['type'] in ('CenterCrop', 'EfficientNetCenterCrop'):
            options.append(f'{key}.crop_size={side}')
    return options


def _steps(key: str, steps: list) -> Iterator[tuple[str, dict]]:
    """The steps of a pipeline, those of every view of a TTA among them, with their keys."""
    for index, step in enumerate(steps):
        if isinstance(step, list):
            yield from _steps(f'{key}.{index}', step)
        elif step['type'] == 'TestTimeAug':
            yield from _steps(f'{key}.{index}.transforms', step['transforms'])
        else:
            yield f'{key}.{index}', step


def _small_segmentor_input(cfg: Config) -> list[str]:
    # One image per batch, as in the configs: an image keeps its own size.
    options = [
        'test_dataloader.batch_size=1',
        'test_dataloader.dataset.pipeline.1.scale=(128,64)',
    ]
    sizes = cfg.tta_pipeline[1].transforms[0]
    for index in range(len(sizes)):
        factor = (0.5, 0.75)[index % 2]
        options.append(f'tta_pipeline.1.transforms.0.{index}.scale_factor={factor}')
    if cfg.model.test_cfg.mode == 'slide':
        options += ['model.test_cfg.crop_size=(64,64)', 'model.test_cfg.stride=(48,48)']
    return options

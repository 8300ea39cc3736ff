"""What the audit builds: the smallest variant of every backbone that needs arguments.

A backbone that is registered and stands in no table here is built without arguments, at `SIZE`.
``size`` is the side of the square image, and ``deploy`` fuses branches.
"""

SIZE = 224
BN = dict(type='BN')
RELU = dict(type='ReLU')
RESNET = dict(depth=18, num_stages=4, out_indices=(0, 1, 2, 3), norm_cfg=BN)
STDC = dict(
    type='STDCNet',
    stdc_type='STDCNet1',
    in_channels=3,
    channels=(16, 32, 64, 128, 256),
    bottleneck_type='cat',
    num_convs=4,
    norm_cfg=BN,
    act_cfg=RELU,
    with_final_conv=False,
)
HRNET = {
    'stage1': dict(num_branches=1, block='BOTTLENECK', num_blocks=(1,), num_channels=(16,)),
    'stage2': dict(num_branches=2, block='BASIC', num_blocks=(1, 1), num_channels=(8, 16)),
    'stage3': dict(num_branches=3, block='BASIC', num_blocks=(1,) * 3, num_channels=(8, 16, 32)),
    'stage4': dict(
        num_branches=4, block='BASIC', num_blocks=(1,) * 4, num_channels=(8, 16, 32, 64)
    ),
}
HRNET = {name: dict(stage, num_modules=1) for name, stage in HRNET.items()}
VIT_ARCH = dict(embed_dims=64, num_layers=3, num_heads=2, feedforward_channels=128)


def entry(size: int = SIZE, deploy: bool = False, **args: object) -> dict:
    """What to build: arguments of the backbone, size of its image, whether to fuse branches."""
    return dict(args=args, size=size, deploy=deploy)


def vit(**args: object) -> dict:
    """`entry` of a small plain transformer."""
    return entry(**dict(arch=VIT_ARCH, img_size=224) | args)


MMPRETRAIN = {
    'AlexNet': entry(),
    'BEiTViT': vit(),
    'CSPDarkNet': entry(depth=53),
    'CSPResNet': entry(depth=50),
    'CSPResNeXt': entry(depth=50),
    'ConvMixer': entry(arch=dict(embed_dims=64, depth=4, patch_size=7, kernel_size=9)),
    'ConvNeXt': entry(arch='atto'),
    'DaViT': entry(arch=dict(embed_dims=32, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8])),
    'DeiT3': vit(out_type='featmap'),
    'DistilledVisionTransformer': vit(),
    'EfficientNetV2': entry(arch='s'),
    'HRNet': entry(extra=HRNET, arch=None),
    'HiViT': entry(arch='tiny', out_indices=[9]),
    'InceptionV3': entry(299, init_cfg=None),
    'LeNet5': entry(32),
    'LeViT': entry(arch='128s'),
    'MViT': entry(arch=dict(embed_dims=32, num_layers=4, num_heads=1, downscale_indices=[1, 2, 3])),
    'MixMIMTransformer': entry(
        256,
        img_size=256,
        window_size=[64, 32, 16, 8],
        arch=dict(embed_dims=32, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8]),
    ),
    'MlpMixer': entry(
        img_size=224,
        arch=dict(embed_dims=64, num_layers=2, tokens_mlp_dims=64, channels_mlp_dims=64),
    ),
    'MobileOne': entry(arch='s0'),
    'MobileOne (deploy)': entry(arch='s0', deploy=True),
    'MobileViT': entry(arch='xx_small'),
    'PCPVT': entry(arch='small'),
    'PyramidVig': entry(arch='tiny'),
    'RegNet': entry(arch='regnetx_400mf'),
    'RepLKNet': entry(
        arch=dict(
            large_kernel_sizes=[31, 29, 27, 13],
            layers=[1, 1, 1, 1],
            channels=[16, 32, 64, 128],
            small_kernel=5,
            dw_ratio=1,
        )
    ),
    'RepMLPNet': entry(
        arch=dict(channels=[16, 32, 64, 128], depths=[1, 1, 1, 1], sharesets_nums=[1, 4, 8, 16]),
    ),
    'RepVGG': entry(arch='A0'),
    'RepVGG (deploy)': entry(arch='A0', deploy=True),
    'Res2Net': entry(depth=50),
    'ResNeSt': entry(depth=50),
    'ResNeXt': entry(depth=50),
    'ResNet': entry(depth=18),
    'ResNet (checkpointed, frozen)': entry(depth=18, with_cp=True, frozen_stages=2),
    'ResNetV1c': entry(depth=18),
    'ResNetV1d': entry(depth=18),
    'ResNet_CIFAR': entry(64, depth=18),
    'RevVisionTransformer': vit(out_type='featmap'),
    'SEResNeXt': entry(depth=50),
    'SEResNet': entry(depth=50),
    'SVT': entry(arch='small'),
    'SwinTransformer': entry(
        arch=dict(embed_dims=48, depths=[2, 2, 2, 2], num_heads=[3, 6, 12, 24])
    ),
    'SwinTransformerV2': entry(
        256,
        window_size=[64, 32, 16, 8],
        arch=dict(
            embed_dims=96,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 1, 1],
            extra_norm_every_n_blocks=0,
        ),
    ),
    'T2T_ViT': entry(
        out_type='featmap',
        embed_dims=64,
        num_layers=2,
        t2t_cfg=dict(token_dims=64, use_performer=False),
        layer_cfgs=dict(num_heads=2, feedforward_channels=128),
    ),
    'TIMMBackbone': entry(model_name='resnet18', pretrained=False),
    'TNT': entry(
        448,
        img_size=448,
        arch=dict(
            embed_dims_outer=64,
            embed_dims_inner=16,
            num_layers=2,
            num_heads_outer=2,
            num_heads_inner=2,
        ),
    ),
    'TinyViT': entry(arch='5m'),
    'VGG': entry(depth=11),
    'ViTEVA02': vit(out_type='featmap'),
    'ViTSAM': entry(img_size=224, arch=dict(VIT_ARCH, global_attn_indexes=[2]), out_channels=32),
    'VAN': entry(arch='tiny'),
    'Vig': entry(arch='tiny'),
    'VisionTransformer': vit(out_type='featmap'),
    'VisionTransformer (class token)': vit(),
    'XCiT': entry(out_type='featmap', embed_dims=64, depth=2, num_heads=2),
}

SEG_VIT = dict(img_size=224, embed_dims=64, num_layers=2, num_heads=2)
MMSEG = {
    'BEiT': entry(**SEG_VIT, qv_bias=True, init_values=0.1),
    'BiSeNetV1': entry(backbone_cfg=dict(RESNET, type='ResNet'), in_channels=3, norm_cfg=BN),
    'BiSeNetV2': entry(),
    'HRNet': entry(extra=HRNET),
    'ICNet': entry(
        256,
        backbone_cfg=dict(RESNET, type='ResNetV1c', strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
        layer_channels=(128, 512),
        norm_cfg=BN,
    ),
    'MAE': entry(**SEG_VIT, init_values=0.1),
    'MSCAN': entry(embed_dims=[16, 32, 64, 128], depths=[1, 1, 1, 1], norm_cfg=BN),
    'MixVisionTransformer': entry(embed_dims=16, num_layers=[2, 2, 2, 2]),
    'PCPVT': entry(embed_dims=[16, 32, 64, 128], depths=[1, 1, 1, 1]),
    'PIDNet': entry(channels=32, norm_cfg=BN),
    'ResNeSt': entry(depth=50),
    'ResNeXt': entry(depth=50),
    'ResNet': entry(depth=18),
    'ResNetV1c': entry(depth=18),
    'ResNetV1c (stride 8)': entry(depth=18, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
    'ResNetV1d': entry(depth=18),
    'STDCContextPathNet': entry(
        backbone_cfg=STDC,
        last_in_channels=(256, 128),
        out_channels=32,
        ffm_cfg=dict(in_channels=96, out_channels=64, scale_factor=4),
    ),
    'STDCNet': entry(**{key: value for key, value in STDC.items() if key != 'type'}),
    'SVT': entry(
        embed_dims=[16, 32, 64, 128],
        strides=[4, 2, 2, 2],
        depths=[2, 2, 2, 2],
        num_heads=[1, 2, 4, 8],
        mlp_ratios=[4, 4, 4, 4],
        windiow_sizes=[7, 7, 7, 7],
        sr_ratios=[8, 4, 2, 1],
    ),
    'SwinTransformer': entry(embed_dims=48, depths=(2, 2, 2, 2)),
    'TIMMBackbone': entry(model_name='resnet18', pretrained=False),
    'UNet': entry(base_channels=8),
    'VisionTransformer': entry(**SEG_VIT),
}
# Registered among the backbones, but parts of one, or not to be built from random weights.
NO_BACKBONES = {
    'mmpretrain': {
        'SparseConvNeXt': 'needs the mask of its pre-training',
        'SparseResNet': 'needs the mask of its pre-training',
    },
    'mmseg': {
        'DeconvModule': 'an upsampling layer of UNet',
        'InterpConv': 'an upsampling layer of UNet',
        'VPD': 'needs the weights of a diffusion model',
    },
}

TIMM = {
    name: entry(model_name=name, pretrained=False, num_classes=4)
    for name in (
        'resnet18',
        'resnet18d',
        'resnetaa50',
        'resnetblur50',
        'regnety_002',
        'mobilenetv2_050',
        'mobilenetv3_small_100',
        'mobilenetv4_conv_small',
        'tf_efficientnet_b0',
        'tf_efficientnetv2_b0',
        'ghostnet_100',
        'densenet121',
        'darknet53',
        'vgg11',
        'xception41',
        'hrnet_w18_small',
        'repvgg_a0',
        'dla34',
        'convnext_atto',
        'convnextv2_atto',
        'mobilevitv2_050',
        'pvt_v2_b0',
        'coat_tiny',
        'coat_lite_tiny',
        'twins_pcpvt_small',
        'pit_ti_224',
        'levit_128s',
        'coatnet_nano_rw_224',
        'swin_tiny_patch4_window7_224',
        'deit_tiny_patch16_224',
        'poolformer_s12',
        'efficientformer_l1',
        'edgenext_xx_small',
        'fastvit_t8',
        'inception_v3',
    )
}

# Audited in place of everything while nothing changed: one of every kind of layer and of topology.
SAMPLE = {
    ('mmpretrain', 'ConvNeXt'),
    ('mmpretrain', 'EfficientNet'),
    ('mmpretrain', 'InceptionV3'),
    ('mmpretrain', 'MobileNetV2'),
    ('mmpretrain', 'ResNet'),
    ('mmpretrain', 'RepVGG (deploy)'),
    ('mmpretrain', 'ShuffleNetV2'),
    ('mmpretrain', 'SwinTransformer'),
    ('mmpretrain', 'VisionTransformer'),
    ('mmseg', 'HRNet'),
    ('mmseg', 'MixVisionTransformer'),
    ('mmseg', 'ResNetV1c (stride 8)'),
    ('mmseg', 'UNet'),
    ('timm', 'coat_lite_tiny'),
    ('timm', 'resnet18'),
}

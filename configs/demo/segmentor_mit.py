# A small Mix Vision Transformer with a SegFormer head: four subsampling groups, four levels at
# strides 4, 8, 16 and 32.
_base_ = ['_base_/runtime.py', '_base_/schedule.py', '_base_/segmentation-scenes.py']

default_scope = 'mmseg'
work_dir = 'work_dirs/demo/segmentor_mit'
# For `tools/test.py --show-dir`.
default_hooks = dict(visualization=dict(type='SegVisualizationHook'))
visualizer = dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])

model = dict(
    type='EncoderDecoder',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(
        type='MixVisionTransformer',
        in_channels=3,
        embed_dims=16,
        num_stages=4,
        num_layers=[1, 1, 1, 1],
        num_heads=[1, 2, 4, 4],
        patch_sizes=[7, 3, 3, 3],
        strides=[4, 2, 2, 2],
        sr_ratios=[4, 2, 1, 1],
        out_indices=(0, 1, 2, 3),
        mlp_ratio=3,
        qkv_bias=True,
        drop_rate=0.0,
        attn_drop_rate=0.0,
        drop_path_rate=0.0,
    ),
    decode_head=dict(
        type='SegformerHead',
        in_channels=[16, 32, 64, 64],
        in_index=[0, 1, 2, 3],
        channels=48,
        dropout_ratio=0.0,
        num_classes=11,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(
            type='CrossEntropyLoss',
            use_sigmoid=False,
            loss_weight=1.0,
            # Nine pixels in ten are background.
            class_weight=[0.2] + [1.0] * 10,
        ),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)

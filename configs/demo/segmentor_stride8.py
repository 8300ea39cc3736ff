# A small ResNet whose last stage is dilated instead of strided: three subsampling groups (stem,
# max pooling, second stage), one feature level at stride 8.
_base_ = ['_base_/runtime.py', '_base_/schedule.py', '_base_/segmentation-scenes.py']

default_scope = 'mmseg'
work_dir = 'work_dirs/demo/segmentor_stride8'
# For `tools/test.py --show-dir`.
default_hooks = dict(visualization=dict(type='SegVisualizationHook'))
visualizer = dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])

norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(
        type='ResNet',
        depth=18,
        stem_channels=16,
        base_channels=16,
        num_stages=3,
        strides=(1, 2, 1),
        dilations=(1, 1, 2),
        out_indices=(2,),
        contract_dilation=True,
        norm_cfg=norm_cfg,
        norm_eval=False,
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=64,
        in_index=0,
        channels=64,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=11,
        norm_cfg=norm_cfg,
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

# One feature level at stride 8: the last four stages are dilated instead of strided.
_base_ = ['_base_/runtime.py', '_base_/schedule_40e.py', '_base_/camvid-480x360.py']

norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(
        type='MobileNetV2',
        strides=(1, 2, 2, 1, 1, 1, 1),
        dilations=(1, 1, 1, 2, 2, 4, 4),
        out_indices=(1, 2, 4, 6),
        norm_cfg=norm_cfg,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/real/weights/mobilenet_v2_backbone.pth',
            prefix='backbone',
        ),
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=320,
        in_index=3,
        channels=128,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=11,
        ignore_index=_base_.ignore_index,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=_base_.loss_decode,
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)

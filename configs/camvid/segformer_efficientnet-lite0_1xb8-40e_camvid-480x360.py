# A pyramid: four feature levels at strides 4, 8, 16 and 32.
_base_ = ['_base_/runtime.py', '_base_/schedule_40e.py', '_base_/camvid-480x360.py']

norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(
        type='TIMMBackbone',
        model_name='efficientnet_lite0',
        features_only=True,
        pretrained=False,
        out_indices=(1, 2, 3, 4),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/real/weights/efficientnet_lite0_backbone.pth',
            prefix='backbone',
        ),
    ),
    decode_head=dict(
        type='SegformerHead',
        in_channels=[24, 40, 112, 320],
        in_index=[0, 1, 2, 3],
        channels=128,
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

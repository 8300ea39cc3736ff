# PointRend: a cascade that refines the most uncertain points of a Panoptic FPN.
_base_ = ['./fpn.py']

model = dict(
    type='CascadeEncoderDecoder',
    num_stages=2,
    decode_head=[
        dict(_base_.model.decode_head),
        dict(
            type='PointHead',
            in_channels=[48],
            in_index=[0],
            channels=48,
            num_fcs=3,
            coarse_pred_each_layer=True,
            num_classes=11,
            dropout_ratio=-1,
            align_corners=False,
            loss_decode=_base_.head.loss_decode,
        ),
    ],
    train_cfg=dict(num_points=256, oversample_ratio=3, importance_sample_ratio=0.75),
    test_cfg=dict(subdivision_steps=2, subdivision_num_points=1024, scale_factor=2),
)

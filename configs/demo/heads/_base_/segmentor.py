# What the models of the comparison of heads share: scenes, schedule, preprocessing, test mode.
_base_ = [
    '../../_base_/runtime.py',
    '../../_base_/schedule.py',
    '../../_base_/segmentation-scenes.py',
]

default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    data_preprocessor=_base_.data_preprocessor,
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
head = dict(
    num_classes=11,
    dropout_ratio=0.0,
    norm_cfg=dict(type='BN', requires_grad=True),
    align_corners=False,
    # Nine pixels in ten are background.
    loss_decode=dict(type='CrossEntropyLoss', class_weight=[0.2] + [1.0] * 10),
)

max_iters = 600
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, T_max=max_iters - 50),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)

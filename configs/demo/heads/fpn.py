# Panoptic FPN: a feature pyramid neck over strides 4, 8 and 16.
_base_ = ['./_base_/resnet-pyramid.py']

model = dict(
    neck=dict(type='FPN', in_channels=[16, 32, 64], out_channels=48, num_outs=3),
    decode_head=dict(
        _base_.head,
        type='FPNHead',
        in_channels=[48, 48, 48],
        in_index=[0, 1, 2],
        feature_strides=[4, 8, 16],
        channels=48,
    ),
)

# UPerNet: pooled context on the deepest of three levels, then a feature pyramid.
_base_ = ['./_base_/resnet-pyramid.py']

model = dict(
    decode_head=dict(
        _base_.head,
        type='UPerHead',
        in_channels=[16, 32, 64],
        in_index=[0, 1, 2],
        channels=48,
        pool_scales=(1, 2, 3, 6),
    )
)

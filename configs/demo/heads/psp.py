# PSPNet: pooled context over the whole map, one level, stride 8.
_base_ = ['./_base_/resnet-dilated.py']

model = dict(
    decode_head=dict(
        _base_.head,
        type='PSPHead',
        in_channels=64,
        in_index=2,
        channels=64,
        pool_scales=(1, 2, 3, 6),
    )
)

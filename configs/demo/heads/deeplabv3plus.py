# DeepLabV3+: a skip from stride 4 meets the deepest level at stride 8.
_base_ = ['./_base_/resnet-dilated.py']

model = dict(
    decode_head=dict(
        _base_.head,
        type='DepthwiseSeparableASPPHead',
        in_channels=64,
        in_index=2,
        channels=64,
        # Maps are 12 x 12 here.
        dilations=(1, 2, 4, 6),
        c1_in_channels=16,
        c1_channels=16,
    )
)

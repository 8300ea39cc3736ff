# DeepLabV3: atrous convolutions and an image-level pooling, one level, stride 8.
_base_ = ['./_base_/resnet-dilated.py']

model = dict(
    decode_head=dict(
        _base_.head,
        type='ASPPHead',
        in_channels=64,
        in_index=2,
        channels=64,
        # Maps are 12 x 12 here.
        dilations=(1, 2, 4, 6),
    )
)

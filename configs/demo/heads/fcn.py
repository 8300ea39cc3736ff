# FCN with its input concatenated before the classifier: one level, stride 8.
_base_ = ['./_base_/resnet-dilated.py']

model = dict(
    decode_head=dict(
        _base_.head,
        type='FCNHead',
        in_channels=64,
        in_index=2,
        channels=64,
        num_convs=2,
        concat_input=True,
    )
)

# OCR: a cascade of an FCN head on level 1 and object context on level 2, both stride 8.
_base_ = ['./_base_/resnet-dilated.py']

model = dict(
    type='CascadeEncoderDecoder',
    num_stages=2,
    decode_head=[
        dict(
            _base_.head,
            type='FCNHead',
            in_channels=32,
            in_index=1,
            channels=64,
            num_convs=1,
            concat_input=False,
        ),
        dict(
            _base_.head,
            type='OCRHead',
            in_channels=64,
            in_index=2,
            channels=64,
            ocr_channels=32,
        ),
    ],
)

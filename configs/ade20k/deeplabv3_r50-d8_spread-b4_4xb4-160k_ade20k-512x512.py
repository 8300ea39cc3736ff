# DeepLabV3 R50-D8 on ADE20K: the deepest group, all four of its states, aligned exactly.
_base_ = [
    'mmseg::deeplabv3/deeplabv3_r50-d8_4xb4-160k_ade20k-512x512.py',
    '../_base_/mmdiscard/spread-b4_deepest-group.py',
]

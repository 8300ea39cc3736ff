# DeepLabV3 R50-D8 on ADE20K, searched and merged as in the paper.
_base_ = [
    'mmseg::deeplabv3/deeplabv3_r50-d8_4xb4-160k_ade20k-512x512.py',
    '../_base_/mmdiscard/greedy-b4.py',
]

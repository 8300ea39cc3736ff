# DeepLabV3 R50-D8 on Cityscapes, searched and merged as in the paper.
_base_ = [
    'mmseg::deeplabv3/deeplabv3_r50-d8_4xb2-80k_cityscapes-512x1024.py',
    '../_base_/mmdiscard/greedy-b4.py',
]

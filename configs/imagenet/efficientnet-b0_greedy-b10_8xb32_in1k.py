# EfficientNet-B0 on ImageNet, searched and merged as in the paper.
_base_ = [
    'mmpretrain::efficientnet/efficientnet-b0_8xb32_in1k.py',
    '../_base_/mmdiscard/greedy-b10.py',
]

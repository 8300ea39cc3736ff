# EfficientFormer-L1 on ImageNet, searched and merged as in the paper.
_base_ = [
    'mmpretrain::efficientformer/efficientformer-l1_8xb128_in1k.py',
    '../_base_/mmdiscard/greedy-b10.py',
]

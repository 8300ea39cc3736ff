# MobileNetV3 large on ImageNet, searched and merged as in the paper.
_base_ = [
    'mmpretrain::mobilenet_v3/mobilenet-v3-large_8xb128_in1k.py',
    '../_base_/mmdiscard/greedy-b10.py',
]

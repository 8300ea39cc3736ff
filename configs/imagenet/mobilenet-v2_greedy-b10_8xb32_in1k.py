# MobileNetV2 on ImageNet, searched and merged as in the paper.
_base_ = [
    'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py',
    '../_base_/mmdiscard/greedy-b10.py',
]

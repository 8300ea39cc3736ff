# ResNet-50 on ImageNet, searched and merged as in the paper.
_base_ = [
    'mmpretrain::resnet/resnet50_8xb32_in1k.py',
    '../_base_/mmdiscard/greedy-b10.py',
]

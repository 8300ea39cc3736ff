# ResNet-18 on ImageNet, searched and merged as in the paper.
_base_ = [
    'mmpretrain::resnet/resnet18_8xb32_in1k.py',
    '../_base_/mmdiscard/greedy-b10.py',
]

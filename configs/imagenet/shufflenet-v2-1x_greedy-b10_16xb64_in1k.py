# ShuffleNetV2 1x on ImageNet, searched and merged as in the paper.
_base_ = [
    'mmpretrain::shufflenet_v2/shufflenet-v2-1x_16xb64_in1k.py',
    '../_base_/mmdiscard/greedy-b10.py',
]

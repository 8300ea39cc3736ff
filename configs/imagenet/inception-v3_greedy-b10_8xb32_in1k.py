# Inception V3 on ImageNet, searched and merged as in the paper.
_base_ = [
    'mmpretrain::inception_v3/inception-v3_8xb32_in1k.py',
    '../_base_/mmdiscard/greedy-b10.py',
]

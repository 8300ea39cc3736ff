# Swin-T on ImageNet, searched and merged as in the paper.
_base_ = [
    'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
    '../_base_/mmdiscard/greedy-b10.py',
]

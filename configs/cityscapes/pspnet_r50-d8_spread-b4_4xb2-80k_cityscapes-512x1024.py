# PSPNet R50-D8 on Cityscapes: the deepest group, all four of its states, aligned exactly.
_base_ = [
    'mmseg::pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024.py',
    '../_base_/mmdiscard/spread-b4_deepest-group.py',
]

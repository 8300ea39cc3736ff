# FCN HRNet-W18 on Cityscapes: the second of its stem's two groups, aligned exactly.
_base_ = [
    'mmseg::hrnet/fcn_hr18_4xb2-160k_cityscapes-512x1024.py',
    '../_base_/mmdiscard/spread-b4_deepest-group.py',
]

# FCN HRNet-W18 on ADE20K: the second of its stem's two groups, aligned exactly.
_base_ = [
    'mmseg::hrnet/fcn_hr18_4xb4-160k_ade20k-512x512.py',
    '../_base_/mmdiscard/spread-b4_deepest-group.py',
]

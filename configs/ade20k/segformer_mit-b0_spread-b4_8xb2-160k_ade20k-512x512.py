# SegFormer MiT-B0 on ADE20K: the first group, four of its sixteen states, aligned exactly.
_base_ = [
    'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
    '../_base_/mmdiscard/spread-b4_first-group.py',
]

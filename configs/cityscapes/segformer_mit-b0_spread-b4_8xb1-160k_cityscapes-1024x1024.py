# SegFormer MiT-B0 on Cityscapes: the first group, four of its sixteen states, aligned exactly.
_base_ = [
    'mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py',
    '../_base_/mmdiscard/spread-b4_first-group.py',
]

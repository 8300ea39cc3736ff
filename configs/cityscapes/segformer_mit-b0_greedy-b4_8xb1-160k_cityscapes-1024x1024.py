# SegFormer MiT-B0 on Cityscapes, searched and merged as in the paper.
_base_ = [
    'mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py',
    '../_base_/mmdiscard/greedy-b4.py',
]

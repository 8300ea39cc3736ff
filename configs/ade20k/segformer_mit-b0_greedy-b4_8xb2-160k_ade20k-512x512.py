# SegFormer MiT-B0 on ADE20K, searched and merged as in the paper.
_base_ = [
    'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
    '../_base_/mmdiscard/greedy-b4.py',
]

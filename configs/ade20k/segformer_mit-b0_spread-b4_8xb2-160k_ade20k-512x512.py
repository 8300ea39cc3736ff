# SegFormer MiT-B0 on ADE20K: the first group, four of its sixteen states, aligned exactly.
_base_ = [
    'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
    '../_base_/runtime.py',
    '../_base_/search/spread_b4.py',
    '../_base_/aggregators/average_logits_exact.py',
]

custom_hooks = [
    dict(
        type='mmdiscard.SubsamplingSearchHook',
        subsampling=dict(groups=[0]),
        search=_base_.search,
        aggregator=_base_.aggregator,
    )
]

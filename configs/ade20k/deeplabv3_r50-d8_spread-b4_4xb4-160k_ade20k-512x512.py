# DeepLabV3 R50-D8 on ADE20K: the deepest group, all four of its states, aligned exactly.
_base_ = [
    'mmseg::deeplabv3/deeplabv3_r50-d8_4xb4-160k_ade20k-512x512.py',
    '../_base_/runtime.py',
    '../_base_/search/spread_b4.py',
    '../_base_/aggregators/average_logits_exact.py',
]

custom_hooks = [
    dict(
        type='mmdiscard.SubsamplingSearchHook',
        subsampling=dict(groups=[-1]),
        search=_base_.search,
        aggregator=_base_.aggregator,
    )
]

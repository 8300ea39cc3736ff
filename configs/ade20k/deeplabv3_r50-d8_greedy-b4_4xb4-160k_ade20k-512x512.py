# DeepLabV3 R50-D8 on ADE20K, searched and merged as in the paper.
_base_ = [
    'mmseg::deeplabv3/deeplabv3_r50-d8_4xb4-160k_ade20k-512x512.py',
    '../_base_/runtime.py',
    '../_base_/search/greedy_b4.py',
    '../_base_/aggregators/entropy_features_bilinear.py',
]

custom_hooks = [
    dict(
        type='mmdiscard.SubsamplingSearchHook',
        subsampling=dict(groups='inner'),
        search=_base_.search,
        aggregator=_base_.aggregator,
    )
]

# Dense prediction with levels of many strides: the first group is the one that all of them share.
_base_ = [
    '../runtime.py',
    '../search/spread_b4.py',
    '../aggregators/average_logits_exact.py',
]

custom_hooks = [
    dict(
        type='mmdiscard.SubsamplingSearchHook',
        subsampling=dict(groups=[0]),
        search=_base_.search,
        aggregator=_base_.aggregator,
    )
]

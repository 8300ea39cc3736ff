# Dense prediction from one stride: the deepest group is shared by all levels, and the cheapest.
_base_ = [
    '../runtime.py',
    '../search/spread_b4.py',
    '../aggregators/average_logits_exact.py',
]

custom_hooks = [
    dict(
        type='mmdiscard.SubsamplingSearchHook',
        subsampling=dict(groups=[-1]),
        search=_base_.search,
        aggregator=_base_.aggregator,
    )
]

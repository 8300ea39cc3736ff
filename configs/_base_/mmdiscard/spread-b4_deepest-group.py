# Dense prediction from one stride: the deepest group is shared by all levels, and the cheapest.
_base_ = ['../runtime.py']

custom_hooks = [
    dict(
        type='mmdiscard.SubsamplingSearchHook',
        subsampling=dict(groups=[-1]),
        search=dict(type='SpreadStates', budget=4),
        aggregator=dict(type='AverageAggregator', on='logits', align='exact'),
    )
]

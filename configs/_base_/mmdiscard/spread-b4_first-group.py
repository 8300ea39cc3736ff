# Dense prediction with levels of many strides: the first group is the one that all of them share.
_base_ = ['../runtime.py']

custom_hooks = [
    dict(
        type='mmdiscard.SubsamplingSearchHook',
        subsampling=dict(groups=[0]),
        search=dict(type='SpreadStates', budget=4),
        aggregator=dict(type='AverageAggregator', on='logits', align='exact'),
    )
]

# The two deepest groups: the four states farthest apart are those of the deepest one.
# Aligned exactly.
_base_ = ['./segmentor_stride8.py', '../_base_/runtime.py']

custom_hooks = [
    dict(
        type='mmdiscard.SubsamplingSearchHook',
        subsampling=dict(groups=[-2, -1]),
        search=dict(type='SpreadStates', budget=4),
        aggregator=dict(type='AverageAggregator', on='logits', align='exact'),
    )
]
tta_model = dict(_delete_=True, type='mmdiscard.DiscardSegTTA')

# The two deepest groups: the four states farthest apart are those of the deepest one.
# Aligned exactly.
_base_ = [
    './segmentor_stride8.py',
    '../_base_/runtime.py',
    '../_base_/search/spread_b4.py',
    '../_base_/aggregators/average_logits_exact.py',
]

custom_hooks = [
    dict(
        type='mmdiscard.SubsamplingSearchHook',
        subsampling=dict(groups=[-2, -1]),
        search=_base_.search,
        aggregator=_base_.aggregator,
    )
]
tta_model = dict(_delete_=True, type='mmdiscard.DiscardSegTTA')

# The first group, four of its sixteen states. Aligned exactly.
_base_ = [
    './segmentor_mit.py',
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
tta_model = dict(_delete_=True, type='mmdiscard.DiscardSegTTA')

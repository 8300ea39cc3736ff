# The paper's settings: greedy search by entropy over the inner groups, features blended.
_base_ = [
    './segmentor_mit.py',
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
tta_model = dict(_delete_=True, type='mmdiscard.DiscardSegTTA')

# The paper: ten states per image, found greedily among all groups but the first and the last.
_base_ = [
    '../runtime.py',
    '../search/greedy_b10.py',
    '../aggregators/entropy_features_bilinear.py',
]

custom_hooks = [
    dict(
        type='mmdiscard.SubsamplingSearchHook',
        subsampling=dict(groups='inner'),
        search=_base_.search,
        aggregator=_base_.aggregator,
    )
]

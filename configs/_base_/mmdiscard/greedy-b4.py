# The paper: four states per image, found greedily among all groups but the first and the last.
_base_ = ['../runtime.py']

custom_hooks = [
    dict(
        type='mmdiscard.SubsamplingSearchHook',
        subsampling=dict(groups='inner'),
        search=dict(type='GreedySearch', budget=4, criterion=dict(type='EntropyCriterion')),
        aggregator=dict(type='EntropyAggregator', on='features', align='bilinear'),
    )
]

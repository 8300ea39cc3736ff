# ConvNeXt V2-T on ImageNet, searched and merged as in the paper.
_base_ = [
    'mmpretrain::convnext_v2/convnext-v2-tiny_32xb32_in1k.py',
    '../_base_/runtime.py',
]

# MM's config has a hook of its own, the moving average of the weights; it stays.
custom_hooks = [
    dict(
        type='mmdiscard.SubsamplingSearchHook',
        subsampling=dict(groups='inner'),
        search=dict(type='GreedySearch', budget=10, criterion=dict(type='EntropyCriterion')),
        aggregator=dict(type='EntropyAggregator', on='features', align='bilinear'),
    ),
    *_base_.custom_hooks,
]

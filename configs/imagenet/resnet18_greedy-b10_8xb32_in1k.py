# ResNet-18 on ImageNet, searched and merged as in the paper.
_base_ = [
    'mmpretrain::resnet/resnet18_8xb32_in1k.py',
    '../_base_/runtime.py',
    '../_base_/search/greedy_b10.py',
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

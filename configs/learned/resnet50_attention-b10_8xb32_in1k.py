# ResNet-50 on ImageNet with learned search and aggregation, trained as in the paper:
# `mmdiscard.train_aggregator` first, then `mmdiscard.test`, both with this config.
_base_ = [
    'mmpretrain::resnet/resnet50_8xb32_in1k.py',
    '../_base_/runtime.py',
    '../_base_/learned/paper.py',
]

custom_hooks = [
    dict(
        type='mmdiscard.SubsamplingSearchHook',
        subsampling=dict(groups='inner'),
        search=dict(type='GreedySearch', budget=10, criterion=dict(type='AttentionCriterion')),
        aggregator=dict(
            type='AttentionAggregator',
            on='features',
            align='bilinear',
            init_cfg=dict(
                type='Pretrained',
                checkpoint='work_dirs/{{ fileBasenameNoExtension }}/aggregator.pth',
            ),
        ),
    )
]

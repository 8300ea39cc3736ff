# DeepLabV3 on Cityscapes with learned search and aggregation, trained as in the paper. All three
# groups are searched: the inner one alone has four states, and training takes thirty.
_base_ = [
    'mmseg::deeplabv3/deeplabv3_r50-d8_4xb2-80k_cityscapes-512x1024.py',
    '../_base_/runtime.py',
    '../_base_/learned/paper.py',
]

custom_hooks = [
    dict(
        type='mmdiscard.SubsamplingSearchHook',
        subsampling=dict(groups='all'),
        search=dict(type='GreedySearch', budget=4, criterion=dict(type='AttentionCriterion')),
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

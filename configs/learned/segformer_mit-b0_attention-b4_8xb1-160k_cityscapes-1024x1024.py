# SegFormer on Cityscapes with learned search and aggregation, one module for each of its four
# levels, trained as in the paper. The inner groups have sixteen states, so training takes all.
_base_ = [
    'mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py',
    '../_base_/runtime.py',
    '../_base_/learned/paper.py',
]

custom_hooks = [
    dict(
        type='mmdiscard.SubsamplingSearchHook',
        subsampling=dict(groups='inner'),
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
aggregator_training = dict(search=dict(budget=16))

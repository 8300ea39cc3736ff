# The demo's classifier with learned search and aggregation, as in the paper but for the lr and the
# number of images, which suit a training of seconds.
_base_ = [
    './classifier.py',
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
aggregator_training = dict(
    images=500,
    batch_size=10,
    pipeline=_base_.test_pipeline,
    optim_wrapper=dict(optimizer=dict(lr=1e-3)),
    cache_gib=2.0,
)

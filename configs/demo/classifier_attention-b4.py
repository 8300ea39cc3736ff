# The demo's classifier with learned search and aggregation, as in the paper but for the lr and the
# number of images, which suit a training of seconds.
_base_ = [
    './classifier.py',
    '../_base_/runtime.py',
    '../_base_/search/attention_b4.py',
    '../_base_/aggregators/attention_features_bilinear.py',
    '../_base_/learned/paper.py',
]

aggregator_file = 'work_dirs/{{ fileBasenameNoExtension }}/aggregator.pth'
custom_hooks = [
    dict(
        type='mmdiscard.SubsamplingSearchHook',
        subsampling=dict(groups='inner'),
        search=_base_.search,
        aggregator=dict(
            _base_.aggregator, init_cfg=dict(type='Pretrained', checkpoint=aggregator_file)
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

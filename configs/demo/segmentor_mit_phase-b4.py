# The states of segmentor_mit_spread-b4, weighed by where a pixel lies in their cells.
_base_ = [
    './segmentor_mit.py',
    '../_base_/runtime.py',
    '../_base_/learned/phase.py',
]

custom_hooks = [
    dict(
        type='mmdiscard.SubsamplingSearchHook',
        subsampling=dict(groups=[0]),
        search=dict(type='SpreadStates', budget=4),
        aggregator=dict(
            type='PhaseAggregator',
            on='logits',
            align='exact',
            init_cfg=dict(
                type='Pretrained',
                checkpoint='work_dirs/{{ fileBasenameNoExtension }}/aggregator.pth',
            ),
        ),
    )
]
aggregator_training = dict(batch_size=10, pipeline=_base_.test_pipeline, cache_gib=2.0)

# The states of segmentor_stride8_spread-b4, weighed by where a pixel lies in their cells.
_base_ = [
    './segmentor_stride8.py',
    '../_base_/runtime.py',
    '../_base_/search/spread_b4.py',
    '../_base_/aggregators/phase_logits_exact.py',
    '../_base_/learned/phase.py',
]

aggregator_file = 'work_dirs/{{ fileBasenameNoExtension }}/aggregator.pth'
custom_hooks = [
    dict(
        type='mmdiscard.SubsamplingSearchHook',
        subsampling=dict(groups=[-2, -1]),
        search=_base_.search,
        aggregator=dict(
            _base_.aggregator, init_cfg=dict(type='Pretrained', checkpoint=aggregator_file)
        ),
    )
]
aggregator_training = dict(batch_size=10, pipeline=_base_.test_pipeline, cache_gib=2.0)

# DeepLabV3 on Cityscapes, four states of the deepest group, their exactly aligned logits weighed by
# the place of a pixel in the cells of a state. Beyond the paper.
_base_ = [
    'mmseg::deeplabv3/deeplabv3_r50-d8_4xb2-80k_cityscapes-512x1024.py',
    '../_base_/runtime.py',
    '../_base_/search/spread_b4.py',
    '../_base_/aggregators/phase_logits_exact.py',
    '../_base_/learned/phase.py',
]

aggregator_file = 'work_dirs/{{ fileBasenameNoExtension }}/aggregator.pth'
custom_hooks = [
    dict(
        type='mmdiscard.SubsamplingSearchHook',
        subsampling=dict(groups=[-1]),
        search=_base_.search,
        aggregator=dict(
            _base_.aggregator, init_cfg=dict(type='Pretrained', checkpoint=aggregator_file)
        ),
    )
]

# DeepLabV3 on Cityscapes, four states of the deepest group, their exactly aligned logits weighed by
# the place of a pixel in the cells of a state. Beyond the paper.
_base_ = [
    'mmseg::deeplabv3/deeplabv3_r50-d8_4xb2-80k_cityscapes-512x1024.py',
    '../_base_/runtime.py',
    '../_base_/learned/phase.py',
]

custom_hooks = [
    dict(
        type='mmdiscard.SubsamplingSearchHook',
        subsampling=dict(groups=[-1]),
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

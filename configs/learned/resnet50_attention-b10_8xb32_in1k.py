# ResNet-50 on ImageNet with learned search and aggregation, trained as in the paper:
# `tools/train_aggregator.py` first, then `tools/test.py`, both with this config.
_base_ = [
    'mmpretrain::resnet/resnet50_8xb32_in1k.py',
    '../_base_/runtime.py',
    '../_base_/search/attention_b10.py',
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

# DeepLabV3 on Cityscapes with learned search and aggregation, trained as in the paper. All three
# groups are searched: the inner one alone has four states, and training takes thirty.
_base_ = [
    'mmseg::deeplabv3/deeplabv3_r50-d8_4xb2-80k_cityscapes-512x1024.py',
    '../_base_/runtime.py',
    '../_base_/search/attention_b4.py',
    '../_base_/aggregators/attention_features_bilinear.py',
    '../_base_/learned/paper.py',
]

aggregator_file = 'work_dirs/{{ fileBasenameNoExtension }}/aggregator.pth'
custom_hooks = [
    dict(
        type='mmdiscard.SubsamplingSearchHook',
        subsampling=dict(groups='all'),
        search=_base_.search,
        aggregator=dict(
            _base_.aggregator, init_cfg=dict(type='Pretrained', checkpoint=aggregator_file)
        ),
    )
]

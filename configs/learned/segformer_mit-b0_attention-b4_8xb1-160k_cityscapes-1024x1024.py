# SegFormer on Cityscapes with learned search and aggregation, one module for each of its four
# levels, trained as in the paper. The inner groups have sixteen states, so training takes all.
_base_ = [
    'mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py',
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
aggregator_training = dict(search=dict(budget=16))

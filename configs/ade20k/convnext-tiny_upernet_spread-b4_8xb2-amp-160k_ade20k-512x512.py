# UPerNet ConvNeXt-T on ADE20K: the first group, four of its sixteen states, aligned exactly.
_base_ = [
    'mmseg::convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py',
]

# MM's config imports the package that has its backbone; mmdiscard comes beside it.
custom_imports = dict(imports=['mmpretrain.models', 'mmdiscard'], allow_failed_imports=False)
custom_hooks = [
    dict(
        type='mmdiscard.SubsamplingSearchHook',
        subsampling=dict(groups=[0]),
        search=dict(type='SpreadStates', budget=4),
        aggregator=dict(type='AverageAggregator', on='logits', align='exact'),
    )
]

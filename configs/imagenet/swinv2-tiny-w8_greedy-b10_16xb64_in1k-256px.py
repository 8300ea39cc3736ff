# Swin-T V2 on ImageNet, searched and merged as in the paper.
_base_ = [
    'mmpretrain::swin_transformer_v2/swinv2-tiny-w8_16xb64_in1k-256px.py',
    '../_base_/mmdiscard/greedy-b10.py',
]

# Its windows of 8 do not fit into the last map of a 224 px image, the size to trace with otherwise.
custom_hooks = [
    dict(_base_.custom_hooks[0], subsampling=dict(groups='inner', input_size=(256, 256)))
]

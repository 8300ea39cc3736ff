# SegNeXt-T on ADE20K: the third group, all four of its states, aligned exactly.
_base_ = [
    'mmseg::segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py',
    '../_base_/mmdiscard/spread-b4_first-group.py',
]

# The head leaves out the level at stride 4: all that it reads has passed the third group.
custom_hooks = [dict(_base_.custom_hooks[0], subsampling=dict(groups=[2]))]

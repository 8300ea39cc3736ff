# SegNeXt: a Hamburger (matrix decomposition) on three levels of a small MSCAN, strides 4, 8, 16.
_base_ = ['./_base_/segmentor.py']

model = dict(
    backbone=dict(
        type='MSCAN',
        embed_dims=[16, 32, 64],
        mlp_ratios=[4, 4, 4],
        depths=[1, 1, 2],
        num_stages=3,
        # Maps are 24, 12 and 6 cells wide here.
        attention_kernel_sizes=[5, [1, 3], [1, 7], [1, 11]],
        attention_kernel_paddings=[2, [0, 1], [0, 3], [0, 5]],
        drop_path_rate=0.0,
        norm_cfg=dict(type='BN', requires_grad=True),
    ),
    decode_head=dict(
        _base_.head,
        type='LightHamHead',
        in_channels=[16, 32, 64],
        in_index=[0, 1, 2],
        channels=64,
        ham_channels=64,
        ham_kwargs=dict(MD_S=1, MD_R=16, train_steps=6, eval_steps=7, inv_t=100, rand_init=True),
    ),
)

# Blocks that begin as almost the identity learn later than the ResNets.
max_iters = 1200
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, T_max=max_iters - 50),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)

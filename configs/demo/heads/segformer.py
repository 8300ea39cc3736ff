# SegFormer: an all-MLP head on three levels of a small Mix Vision Transformer, strides 4, 8, 16.
_base_ = ['./_base_/segmentor.py']

model = dict(
    backbone=dict(
        type='MixVisionTransformer',
        embed_dims=16,
        num_stages=3,
        num_layers=[1, 1, 2],
        num_heads=[1, 2, 4],
        patch_sizes=[7, 3, 3],
        strides=[4, 2, 2],
        sr_ratios=[4, 2, 1],
        out_indices=(0, 1, 2),
        mlp_ratio=3,
        drop_path_rate=0.0,
    ),
    decode_head=dict(
        _base_.head,
        type='SegformerHead',
        in_channels=[16, 32, 64],
        in_index=[0, 1, 2],
        channels=48,
    ),
)

# A transformer trained from nothing learns later than the ResNets.
max_iters = 1100
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, T_max=max_iters - 50),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)

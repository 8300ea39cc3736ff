# A small ResNet-18 type classifier of 64 px scenes: five subsampling groups, total stride 32.
_base_ = ['_base_/runtime.py', '_base_/schedule.py', '_base_/classification-scenes.py']

default_scope = 'mmpretrain'
work_dir = 'work_dirs/demo/classifier'
# For `tools/test.py --show-dir`.
default_hooks = dict(visualization=dict(type='VisualizationHook'))
visualizer = dict(type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')])

model = dict(
    type='ImageClassifier',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(
        type='ResNet',
        depth=18,
        stem_channels=16,
        base_channels=16,
        # Trained from nothing in a minute: blocks that begin as the identity learn too late.
        zero_init_residual=False,
        norm_cfg=dict(type='BN', requires_grad=True),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=128,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)

max_iters = 1200
optim_wrapper = dict(optimizer=dict(lr=1.5e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, T_max=max_iters - 50),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)

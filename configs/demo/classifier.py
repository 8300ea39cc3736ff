# A small ResNet-18 type classifier of 64 px scenes: five subsampling groups, total stride 32.
_base_ = ['_base_/runtime.py', '_base_/schedule.py', '_base_/classification_scenes.py']

default_scope = 'mmpretrain'
work_dir = 'work_dirs/demo/classifier'

model = dict(
    type='ImageClassifier',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(
        type='ResNet',
        depth=18,
        stem_channels=16,
        base_channels=16,
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

# MobileViT V2-1.0 of timm on ImageNet, searched and merged as in the paper.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_256.py',
    'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py',
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/mmdiscard/greedy-b10.py',
]

model = dict(type='TimmClassifier', model_name='mobilevitv2_100', num_classes=1000)
# It was trained on pixels from 0 to 1, and is tested on 256 px out of 288.
data_preprocessor = dict(mean=[0.0] * 3, std=[255.0] * 3)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=288, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=256),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

# PVT V2-B1 of timm on ImageNet, searched and merged as in the paper.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs128_poolformer_small_224.py',  # 248, then 224 px
    'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py',
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/mmdiscard/greedy-b10.py',
]

model = dict(type='TimmClassifier', model_name='pvt_v2_b1', num_classes=1000)

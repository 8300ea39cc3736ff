# Run with --tta: views and states merged together.
_base_ = ['./resnet18_greedy-b10_8xb32_in1k.py', '../_base_/tta/imagenet_flip-scale.py']

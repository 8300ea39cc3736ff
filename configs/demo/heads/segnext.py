# The head of SegNeXt: a Hamburger (matrix decomposition) on three levels of a small ResNet.
_base_ = ['./_base_/resnet-pyramid.py']

model = dict(
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

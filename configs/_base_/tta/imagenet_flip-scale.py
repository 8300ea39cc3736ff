# Two sizes, each with its mirror image: MMPretrain's ImageNet configs define no views themselves.
tta_model = dict(type='mmdiscard.DiscardClsTTA')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='ResizeEdge', scale=size, edge='short') for size in (256, 288)],
            [dict(type='CenterCrop', crop_size=224)],
            [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)],
            [dict(type='PackInputs')],
        ],
    ),
]

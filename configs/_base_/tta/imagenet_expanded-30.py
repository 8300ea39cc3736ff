# The first 30 views of the paper's expanded policy: the image, flips, filters, and the mildest
# level of every graded operation.
tta_model = dict(type='mmdiscard.DiscardClsTTA')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=256, edge='short'),
    dict(type='CenterCrop', crop_size=224),
    dict(
        type='mmdiscard.TestTimePolicy',
        policy=dict(type='ExpandedPolicy', budget=30),
        pack=dict(type='PackInputs'),
    ),
]

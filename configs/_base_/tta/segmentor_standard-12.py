# Six sizes, each with its mirror image, the closest first: the first 12 views of the paper's
# standard policy that can be undone on maps. For images that are tested at their own size, as
# Cityscapes'.
tta_model = dict(type='mmdiscard.DiscardSegTTA')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='mmdiscard.TestTimePolicy',
        policy=dict(type='StandardPolicy', budget=12),
        pack=[dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
        dense=True,
    ),
]

# The first 30 views of the paper's standard policy: three sizes x five crops, each with its mirror
# image. The first view is the usual one, so a budget of 1 is the plain test.
tta_model = dict(type='mmdiscard.DiscardClsTTA')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=256, edge='short'),
    dict(
        type='mmdiscard.TestTimePolicy',
        policy=dict(
            type='StandardPolicy',
            budget=30,
            crop_size=224,
            # The mean of ImageNet's images in OpenCV's order (BGR): grey once normalised.
            pad_val=(104, 116, 124),
        ),
        pack=dict(type='PackInputs'),
    ),
]

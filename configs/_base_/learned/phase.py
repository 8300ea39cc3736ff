# Some dozens of parameters: few images, few epochs, a large lr.
aggregator_training = dict(
    search=dict(type='SpreadStates', budget=4),
    images=500,
    epochs=3,
    optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.05)),
)

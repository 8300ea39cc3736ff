# How the paper trains the attention module: 5 epochs over 20,000 images drawn at random, 30 states
# per image, found greedily by attention times a random number.
aggregator_training = dict(
    search=dict(
        type='GreedySearch', budget=30, criterion=dict(type='AttentionCriterion', random=True)
    ),
    images=20000,
    epochs=5,
    optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-6)),
)

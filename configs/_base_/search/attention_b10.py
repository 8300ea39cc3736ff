search = dict(type='GreedySearch', budget=10, criterion=dict(type='AttentionCriterion'))

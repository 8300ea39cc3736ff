search = dict(type='GreedySearch', budget=4, criterion=dict(type='AttentionCriterion'))

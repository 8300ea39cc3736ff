# Ten states per image, the search following the most confident predictions.
search = dict(type='GreedySearch', budget=10, criterion=dict(type='EntropyCriterion'))

# Four states per image, the search following the most confident predictions.
search = dict(type='GreedySearch', budget=4, criterion=dict(type='EntropyCriterion'))

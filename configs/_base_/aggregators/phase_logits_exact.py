aggregator = dict(type='PhaseAggregator', on='logits', align='exact')

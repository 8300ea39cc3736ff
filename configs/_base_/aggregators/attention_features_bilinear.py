aggregator = dict(type='AttentionAggregator', on='features', align='bilinear')

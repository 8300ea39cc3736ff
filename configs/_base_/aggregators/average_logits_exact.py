# Dense prediction: class scores at image size, moved back by whole pixels, averaged.
aggregator = dict(type='AverageAggregator', on='logits', align='exact')

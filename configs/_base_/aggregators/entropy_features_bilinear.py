# The paper's learning-free merging: feature maps, moved back by blending neighbouring cells,
# weighted by how confident the prediction of each state is.
aggregator = dict(type='EntropyAggregator', on='features', align='bilinear')

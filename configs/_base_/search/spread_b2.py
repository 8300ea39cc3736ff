# Two states, the same for every image: displacements as far apart as they can be.
search = dict(type='SpreadStates', budget=2)

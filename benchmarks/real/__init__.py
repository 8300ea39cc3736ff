"""Real models on real images: data, weights, training, and the tables of results."""

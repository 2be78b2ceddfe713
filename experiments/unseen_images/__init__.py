"""Bodies that are predicted, on images that the generator's training never saw."""

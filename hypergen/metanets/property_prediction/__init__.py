"""Properties of networks from their weights."""

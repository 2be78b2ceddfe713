"""A checkpoint transformer (G.pt)."""

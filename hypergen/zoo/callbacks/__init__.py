"""Callbacks that add the checkpoints of a training loop to a zoo."""

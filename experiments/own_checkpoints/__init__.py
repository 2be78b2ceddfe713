"""Commands alone on checkpoints that somebody else's script left; see docs/results/own_checkpoints.md."""

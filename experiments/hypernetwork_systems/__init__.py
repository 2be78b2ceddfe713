"""Systems that are hypernetworks conditioned on something, trained by their task, each beside its baselines."""

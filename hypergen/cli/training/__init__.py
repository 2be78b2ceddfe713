"""What ``hypergen train`` is made of: checks of options and configuration, experiments, sweeps."""

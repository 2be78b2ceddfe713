"""What benchmarks share: sweeps over many networks, fresh processes, the networks themselves."""

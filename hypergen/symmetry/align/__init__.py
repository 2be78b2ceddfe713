"""Weight matching: the hidden units of trained networks in the same order, and what is between two networks."""

"""Building a zoo from a plan."""

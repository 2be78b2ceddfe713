"""Graph hypernetworks: GHN-2, GHN-3, LoGAH and magnitude invariant heads are configurations of one model."""

"""Learning problems as LightningModules, and what feeds them."""

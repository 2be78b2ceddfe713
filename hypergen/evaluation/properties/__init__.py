"""How well properties of networks are predicted, and the simplest predictors."""

"""Recurrent diffusion of network weights (RPG)."""

"""Latent diffusion of network weights."""

"""Autoregressive generation of weight codes (IGPG)."""

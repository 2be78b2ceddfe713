"""Layers of metanetworks."""

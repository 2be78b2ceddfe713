"""Traced graphs kept on disk, by a content hash of the network."""

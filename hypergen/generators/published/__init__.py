"""The published graph hypernetworks, and the files that their authors released."""

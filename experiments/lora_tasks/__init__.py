"""One published table: its code and its numbers."""

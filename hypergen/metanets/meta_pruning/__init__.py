"""A metanetwork that makes networks easier to prune."""

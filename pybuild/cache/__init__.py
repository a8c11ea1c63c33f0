"""Finished layers by key, and the indexes of layers by digest."""

"""Change sets to layers, and layers to root filesystems."""

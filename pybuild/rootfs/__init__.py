"""A root filesystem that we do not trust: its index, safe paths, owners, attributes."""

"""What becomes of a built image besides the push: archive, layout, digest files."""

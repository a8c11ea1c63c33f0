"""Container images from a Dockerfile, inside an ordinary container: no daemon, no privilege."""

__version__ = "0.1.0"

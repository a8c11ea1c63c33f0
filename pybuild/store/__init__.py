"""Images on disk: an OCI layout folder, or one archive file as `docker save` makes it."""

"""The OCI and Docker schema 2 image model as values: no disk, no network."""

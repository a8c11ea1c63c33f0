"""The distribution API: manifests and blobs from and to registries."""

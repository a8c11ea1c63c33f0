"""Credentials that clouds give to what runs on them, by a few HTTP requests and without SDKs."""

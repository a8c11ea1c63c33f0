"""Dockerfile text as typed instructions, each with its place: no disk, no network."""

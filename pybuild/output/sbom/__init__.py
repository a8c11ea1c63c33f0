"""What software an image holds: found in its files, written as SPDX or CycloneDX."""

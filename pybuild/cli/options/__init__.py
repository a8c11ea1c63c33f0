"""Flags to the small options values that the packages own, a module a group of flags."""

"""Laws are about results: a busy machine must not fail one by taking its time."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("laws", deadline=None)
settings.load_profile("laws")

"""The colours of the report, for a light page and a dark one. Text on its background has a contrast
of at least 4.5 (WCAG 2.2, 1.4.3), blocks one of at least 3 (1.4.11); a test counts it."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Palette(NamedTuple):
    page: str
    card: str
    line: str  # borders and grids, which carry no meaning
    text: str
    muted: str
    link: str
    ran: str
    cached: str
    base: str
    moved: str
    failed: str
    on_block: str  # text on a block


class Theme(Enum):
    LIGHT = Palette(
        page="#f6f7f9",
        card="#ffffff",
        line="#d9dee5",
        text="#1d2630",
        muted="#566370",
        link="#1f5fa8",
        ran="#2f6db3",
        cached="#2b7f62",
        base="#5f6d7b",
        moved="#7d5ba6",
        failed="#b3372f",
        on_block="#ffffff",
    )
    DARK = Palette(
        page="#11161c",
        card="#181f27",
        line="#2e3945",
        text="#e4e9ef",
        muted="#9dabb9",
        link="#8cbcf0",
        ran="#7fb0e6",
        cached="#6cc5a2",
        base="#8f9dac",
        moved="#b79fdd",
        failed="#f28b82",
        on_block="#11161c",
    )

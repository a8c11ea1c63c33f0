"""What fills a layer."""

from __future__ import annotations

import pytest

from pybuild.image.digest import Digest
from pybuild.output.contents import content_of
from pybuild.rootfs.entry import Entry, Kind

DIGEST = Digest("sha256:" + "0" * 64)


def files(**sizes: int) -> list[Entry]:
    return [Entry(path.replace("__", "/"), Kind.FILE, size=size) for path, size in sizes.items()]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param(files(a=5), [("/a", 5, 1)], id="one-file"),
        pytest.param(files(app__lib__a=60, app__lib__b=40), [("/app/lib/a", 60, 1),
                     ("/app/lib/b", 40, 1)], id="below-what-holds-all"),
        pytest.param(files(usr__lib__x=95, usr__share__y=5, etc__z=50),
                     [("/usr/lib/x", 95, 1), ("/etc/z", 50, 1)], id="followed-down"),
        pytest.param(files(a__x=1, a__y=1, b__x=2, b__y=2), [("/b", 4, 2), ("/a", 2, 2)],
                     id="folders"),
        pytest.param(files(a=0, b=0), [("/a", 0, 1), ("/b", 0, 1)], id="empty-files"),
    ],
)  # fmt: skip
def test_biggest(entries: list[Entry], expected: list[tuple[str, int, int]]) -> None:
    found = content_of(DIGEST, entries)
    assert [(one.path, one.size, one.files) for one in found.biggest] == expected
    assert found.size == sum(entry.size for entry in entries) and found.files == len(entries)


def test_links_count_once_and_removals_are_counted() -> None:
    entries = [*files(a=5), Entry("b", Kind.HARDLINK, link="a"), Entry("c", Kind.WHITEOUT),
               Entry("d", Kind.DIRECTORY)]  # fmt: skip
    found = content_of(DIGEST, entries)
    assert (found.size, found.files, found.removed) == (5, 1, 1)


def test_at_most_eight_are_shown() -> None:
    found = content_of(DIGEST, [Entry(f"f{n}", Kind.FILE, size=n) for n in range(100)])
    assert [one.size for one in found.biggest] == [99, 98, 97, 96, 95, 94, 93, 92]

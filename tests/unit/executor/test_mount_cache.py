"""Folders of cache mounts: what is one cache, who may use it at once, what is never half made."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pybuild.errors import Cancelled
from pybuild.executor.mount_cache import CacheMountUnusable, CacheWish, MountCaches

GO_ON = threading.Event()


def wish(identity: str = "a", sharing: str = "shared") -> CacheWish:
    return CacheWish(identity, sharing, lambda place: place.mkdir())


def nobody_waits() -> None:
    raise AssertionError("had to wait")


@pytest.fixture
def caches(tmp_path: Path) -> MountCaches:
    return MountCaches(tmp_path / "parent/mounts")


def test_a_cache_is_found_again_by_what_makes_it(caches: MountCaches) -> None:
    with caches.take(wish(), GO_ON, nobody_waits) as place:
        (place / "f").write_text("kept")
    with caches.take(wish(sharing="locked"), GO_ON, nobody_waits) as place:
        assert (place / "f").read_text() == "kept"
    with caches.take(wish("b"), GO_ON, nobody_waits) as place:
        assert list(place.iterdir()) == []


def test_shared_is_one_folder_and_private_are_several(caches: MountCaches) -> None:
    with (
        caches.take(wish(), GO_ON, nobody_waits) as one,
        caches.take(wish(), GO_ON, nobody_waits) as two,
        caches.take(wish(sharing="private"), GO_ON, nobody_waits) as three,
        caches.take(wish(sharing="private"), GO_ON, nobody_waits) as four,
    ):
        assert one == two
        assert len({one, three, four}) == 3
    with caches.take(wish(sharing="private"), GO_ON, nobody_waits) as again:
        assert again == one


@pytest.mark.parametrize("holder", ["shared", "locked", "private"])
def test_locked_waits_until_nobody_has_it(caches: MountCaches, holder: str) -> None:
    waiting, got = threading.Event(), threading.Event()

    def want() -> None:
        with caches.take(wish(sharing="locked"), GO_ON, waiting.set):
            got.set()

    thread = threading.Thread(target=want)
    with caches.take(wish(sharing=holder), GO_ON, nobody_waits):
        thread.start()
        assert waiting.wait(10)
        assert not got.wait(0.3)
    assert got.wait(10)
    thread.join()


def test_a_stopped_build_does_not_wait(caches: MountCaches) -> None:
    stopped = threading.Event()
    with (
        caches.take(wish(sharing="locked"), GO_ON, nobody_waits),
        pytest.raises(Cancelled),
        caches.take(wish(sharing="locked"), stopped, stopped.set),
    ):
        pass


def test_first_content_is_whole_or_not_there(caches: MountCaches) -> None:
    def fail(place: Path) -> None:
        place.mkdir()
        (place / "half").touch()
        raise Cancelled("in the middle")

    with pytest.raises(Cancelled), caches.take(CacheWish("a", "shared", fail), GO_ON, nobody_waits):
        pass
    with caches.take(wish(), GO_ON, nobody_waits) as place:
        assert list(place.iterdir()) == []
    place.rmdir()  # as a RUN in place may leave it
    with caches.take(wish(), GO_ON, nobody_waits) as place:
        assert place.is_dir()


@pytest.mark.parametrize("trap", ["link", "open", "file"])
def test_a_folder_that_is_not_ours_alone_is_refused(tmp_path: Path, trap: str) -> None:
    folder = tmp_path / "mounts"
    match trap:
        case "link":
            folder.symlink_to(tmp_path)
        case "open":
            folder.mkdir()
            folder.chmod(0o777)
        case "file":
            folder.touch()
    with (
        pytest.raises(CacheMountUnusable) as caught,
        MountCaches(folder).take(wish(), GO_ON, nobody_waits),
    ):
        pass
    assert str(folder) in caught.value.message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "mounts"
    folder.mkdir()
    os.chown(folder, 1000, 1000)
    with pytest.raises(CacheMountUnusable), MountCaches(folder).take(wish(), GO_ON, nobody_waits):
        pass

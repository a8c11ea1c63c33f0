"""COPY on the index: where things land, what is refused, what the layer says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from pybuild.errors import PybuildError
from pybuild.executor.copy import (
    Content,
    LayerDraft,
    Owner,
    draft_copy,
    draft_files,
    pick,
    place_name,
)
from pybuild.plan.steps import CopyAction, FromContext, FromImage, FromStage, ImageRequest
from pybuild.rootfs.entry import Entry, Kind
from pybuild.rootfs.index import LayerIndex, Tree
from tests.support.plans import AMD64, plan_of

NOW = 1_700_000_000_000_000_000


def tree_of(*entries: Entry) -> Tree:
    return Tree((LayerIndex.build(entries),))


def folder(path: str, mode: int = 0o755, uid: int = 0) -> Entry:
    return Entry(path, Kind.DIRECTORY, mode, uid, uid, mtime_ns=5_000_000_000)


def file(path: str, mode: int = 0o644, uid: int = 0) -> Entry:
    return Entry(path, Kind.FILE, mode, uid, uid, 3, 7_000_000_000)


def link(path: str, target: str) -> Entry:
    return Entry(path, Kind.SYMLINK, 0o777, link=target)


class Source:
    """A tree whose files `same` share their bytes."""

    def __init__(self, tree: Tree, same: tuple[str, ...] = ()) -> None:
        self.tree = tree
        self.same = same

    def lookup(self, path: str) -> Entry | None:
        return self.tree.lookup(path)

    def children(self, path: str) -> Iterator[Entry]:
        return self.tree.children(path)

    def resolve(self, path: str, *, follow_last: bool) -> str:
        return self.tree.resolve(path, follow_last=follow_last)

    def identity(self, path: str) -> object | None:
        return self.same if path in self.same else None


SOURCE = Source(
    tree_of(
        file("a.txt", 0o600),
        file("b.txt"),
        folder("tree", 0o700),
        file("tree/one"),
        folder("tree/sub", 0o711),
        file("tree/sub/two"),
        link("tree/dangling", "nowhere"),
        link("to-a", "a.txt"),
        link("to-tree", "tree"),
        link("lost", "nowhere"),
    )
)
BELOW = tree_of(
    folder("etc"),
    folder("home", 0o750, 7),
    folder("home/sub", 0o700, 7),
    file("home/file"),
    link("bin", "usr/bin"),
    folder("usr"),
    folder("usr/bin"),
    link("alias", "home/file"),
)


def copy_action(*sources: str, to: str, **fields: object) -> CopyAction:
    action = CopyAction(
        origin=FromContext(),
        sources=sources,
        inline=(),
        destination=to,
        chown="",
        chmod="",
        link=False,
        exclude=(),
    )
    return replace(action, **fields)


def layer(action: CopyAction, *, source: Source = SOURCE, owner: Owner | None = None) -> list[str]:
    """The layer's entries in a line each: path, kind, mode, uid, where the bytes are from."""
    draft = LayerDraft(BELOW, owner, action.chmod)
    draft_copy(action, pick(action, source), source, draft)
    lines = []
    for change in draft.changes(lambda content: content.path, NOW):
        entry = change.entry
        line = f"{entry.path} {entry.kind.name.lower()} {entry.mode:o} {entry.uid}"
        more = (
            f" -> {entry.link}" if entry.link else f" < {change.content}" if change.content else ""
        )
        lines.append(line + more)
    return lines


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        pytest.param(
            copy_action("a.txt", to="/new"), ["new file 600 0 < a.txt"], id="file-to-a-name"
        ),
        pytest.param(
            copy_action("a.txt", to="/new/"),
            ["new directory 755 0", "new/a.txt file 600 0 < a.txt"],
            id="file-to-a-folder",
        ),
        pytest.param(
            copy_action("a.txt", to="/home"),
            ["home directory 750 7", "home/a.txt file 600 0 < a.txt"],
            id="file-into-an-existing-folder",
        ),
        pytest.param(
            copy_action("to-a", to="/new/"),
            ["new directory 755 0", "new/to-a file 600 0 < a.txt"],
            id="a-named-link-is-followed-and-names-the-copy",
        ),
        pytest.param(
            copy_action("a.txt", to="/bin/x"),
            ["usr directory 755 0", "usr/bin directory 755 0", "usr/bin/x file 600 0 < a.txt"],
            id="through-a-link",
        ),
        pytest.param(
            copy_action("a.txt", to="/alias"),
            ["home directory 750 7", "home/file file 600 0 < a.txt"],
            id="onto-what-a-link-leads-to",
        ),
        pytest.param(
            copy_action("tree", to="/new"),
            [
                "new directory 755 0",
                "new/dangling symlink 777 0 -> nowhere",
                "new/one file 644 0 < tree/one",
                "new/sub directory 711 0",
                "new/sub/two file 644 0 < tree/sub/two",
            ],
            id="a-folder-gives-its-content-not-its-own-mode",
        ),
        pytest.param(
            copy_action("to-tree", to="/home"),
            [
                "home directory 750 7",
                "home/dangling symlink 777 0 -> nowhere",
                "home/one file 644 0 < tree/one",
                "home/sub directory 711 0",
                "home/sub/two file 644 0 < tree/sub/two",
            ],
            id="an-existing-folder-keeps-its-own-those-below-take-the-source-s",
        ),
        pytest.param(
            copy_action("*.txt", to="/t/"),
            [
                "t directory 755 0",
                "t/a.txt file 600 0 < a.txt",
                "t/b.txt file 644 0 < b.txt",
            ],
            id="glob",
        ),
        pytest.param(
            copy_action("tree", to="/new", exclude=("*.x", "sub")),
            [
                "new directory 755 0",
                "new/dangling symlink 777 0 -> nowhere",
                "new/one file 644 0 < tree/one",
            ],
            id="exclude",
        ),
        pytest.param(
            copy_action("tree", to="/new", exclude=("**", "!sub/two")),
            [
                "new directory 755 0",
                "new/sub directory 711 0",
                "new/sub/two file 644 0 < tree/sub/two",
            ],
            id="exclude-with-an-exception",
        ),
        pytest.param(
            copy_action("tree/sub/two", to="/p/", parents=True),
            [
                "p directory 755 0",
                "p/tree directory 700 0",
                "p/tree/sub directory 711 0",
                "p/tree/sub/two file 644 0 < tree/sub/two",
            ],
            id="parents",
        ),
        pytest.param(
            copy_action("tree/./sub/two", to="/p/", parents=True),
            ["p directory 755 0", "p/sub directory 711 0", "p/sub/two file 644 0 < tree/sub/two"],
            id="parents-from-a-pivot",
        ),
        pytest.param(
            copy_action("a.txt", to="/d/x", chmod="1710"),
            ["d directory 710 0", "d/x file 1710 0 < a.txt"],
            id="chmod-octal",
        ),
        pytest.param(
            copy_action("a.txt", to="/d/x", chmod="u=rwx,go="),
            ["d directory 755 0", "d/x file 700 0 < a.txt"],
            id="chmod-symbolic",
        ),
    ],
)
def test_what_a_copy_puts_where(action: CopyAction, expected: list[str]) -> None:
    assert layer(action) == expected


def test_an_owner_is_for_everything_that_is_made() -> None:
    lines = layer(copy_action("tree", to="/x/y"), owner=Owner(9, 9))
    assert {line.split()[3] for line in lines} == {"9"}


@pytest.mark.parametrize(
    ("action", "code"),
    [
        pytest.param(copy_action("nothing", to="/x"), "copy-source-missing", id="missing"),
        pytest.param(copy_action("lost", to="/x"), "copy-source-missing", id="dangling"),
        pytest.param(copy_action("*.md", to="/x"), "copy-source-missing", id="glob"),
        pytest.param(copy_action("tree", to="/home/file"), "bad-destination", id="folder-on-file"),
        pytest.param(copy_action("a.txt", to="/home/file/x"), "bad-destination", id="below-a-file"),
        pytest.param(copy_action("a.txt", to="/x", chmod="u=q"), "bad-mode", id="mode"),
    ],
)
def test_what_is_refused(action: CopyAction, code: str) -> None:
    with pytest.raises(PybuildError) as caught:
        layer(action)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("source", "where", "message", "hint"),
    [
        pytest.param(
            "a.tx",
            "the build context",
            "COPY a.tx: this does not exist in the build context",
            "did you mean a.txt? Otherwise check the path, and .dockerignore",
            id="context",
        ),
        pytest.param(
            "/tree/suub/x",
            "stage build",
            "COPY /tree/suub/x: this does not exist in stage build",
            "did you mean tree/sub? Otherwise check the path",
            id="folder in a stage",
        ),
        pytest.param(
            "*.md",
            "image maven:3",
            "COPY *.md: this matches nothing in image maven:3",
            "check the path",
            id="pattern in an image",
        ),
        pytest.param(
            "lost",
            "stage build",
            "COPY lost: this does not exist in stage build",
            "check the path",
            id="a link that leads nowhere is not what is meant",
        ),
    ],
)
def test_what_is_missing_is_told_with_its_place(
    source: str, where: str, message: str, hint: str
) -> None:
    with pytest.raises(PybuildError) as caught:
        pick(copy_action(source, to="/x"), SOURCE, where)
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_a_place_is_called_by_the_name_people_gave_it() -> None:
    plan = plan_of("FROM a AS build\nFROM b\nCOPY --from=build /x /")
    assert place_name(plan, FromContext()) == "the build context"
    assert place_name(plan, FromStage(0)) == "stage build"
    assert place_name(plan, FromImage(ImageRequest("maven:3", AMD64))) == "image maven:3"


def test_names_of_one_file_stay_links_of_each_other() -> None:
    """Whichever name comes first in the layer is the file."""
    names = ("tree/one", "tree/sub/two")
    lines = layer(copy_action("tree", to="/n"), source=Source(SOURCE.tree, names))
    assert "n/one file 644 0 < tree/one" in lines
    assert "n/sub/two hardlink 644 0 -> n/one" in lines


def test_a_linked_copy_sees_nothing_below() -> None:
    action = copy_action("a.txt", to="/bin/x", link=True)
    draft = LayerDraft(Tree(()), None)
    draft_copy(action, pick(action, SOURCE), SOURCE, draft)
    paths = [change.entry.path for change in draft.changes(lambda content: content.path, NOW)]
    assert paths == ["bin", "bin/x"]


def test_new_folders_have_the_time_of_the_build_and_files_their_own() -> None:
    action = copy_action("a.txt", to="/new/")
    draft = LayerDraft(BELOW, None)
    draft_copy(action, pick(action, SOURCE), SOURCE, draft)
    times = [change.entry.mtime_ns for change in draft.changes(lambda content: content.path, NOW)]
    assert times == [NOW, 7_000_000_000]


def test_a_single_file_takes_its_name_only_in_a_folder() -> None:
    entry = Entry("name", Kind.FILE, 0o600, size=2)
    for destination, expected in (("/etc", "etc/name"), ("/etc/x", "etc/x"), ("/y/", "y/name")):
        draft = LayerDraft(BELOW, None)
        draft_files(copy_action(to=destination), [(entry, Content(data=b"hi"))], draft)
        assert expected in draft.entries

"""Real programs in a Pod under Pod Security "restricted": uid 1000, no capability, no new
privileges, RuntimeDefault. They are shown what root would see."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support import bases, bundle

pytestmark = [
    pytest.mark.skipif(
        os.geteuid() != 0 or bool(bundle.missing_commands()), reason="needs root and podman"
    ),
    pytest.mark.xdist_group("faked"),
]

UID = 1000  # as of the user that a RUN makes most often
RESTRICTED = (
    *("--user=1000:1000", "--passwd=false", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
    f"--security-opt=seccomp={bundle.RUNTIME_DEFAULT}",
)
CONTROL = """Package: hello
Version: 1
Architecture: all
Maintainer: a <a@example.com>
Description: d
"""
POSTINST = """#!/bin/sh
set -e
chown daemon:adm /usr/share/hello/given
chmod 4750 /usr/share/hello/given
"""
NET_RAW = "0100000200200000000000000000000000000000"  # cap_net_raw=ep, version 2

# A function in machine code that makes a call of i386, by int 0x80 from 64-bit code: its arguments
# are moved to eax, ebx, ecx, edx and esi.
I386 = r"""
import ctypes, mmap, struct, os
code = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 7)
code.write(bytes.fromhex("53 89f8 89f3 4189d2 89ca 4489d1 4489c6 cd80 5b c3"))
at = ctypes.addressof(ctypes.c_char.from_buffer(code))
call = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_long] * 5)(at)
low = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40, 3)
low_at = ctypes.addressof(ctypes.c_char.from_buffer(low))
def put(data):
    low[: len(data)] = data
    return low_at
def i386(number, *words):
    return call(number, *words, *[0] * (4 - len(words)))
"""

THREADS = r"""
import ctypes, os, threading
libc = ctypes.CDLL(None, use_errno=True)
ready, done, seen = threading.Barrier(5), threading.Barrier(5), []
def look():
    ready.wait(); done.wait()
    seen.append((os.getuid(), os.getgid()))
threads = [threading.Thread(target=look) for _ in range(4)]
for one in threads: one.start()
ready.wait()
assert libc.setgid(7) == 0 and libc.setuid(33) == 0
done.wait()
for one in threads: one.join()
print(seen, os.getuid(), libc.setuid(0))
"""

PRIVILEGES = r"""
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
def prctl(*words): return libc.prctl(*[ctypes.c_ulong(word) for word in words])
def caps():
    header, data = struct.pack("Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    libc.capget(header, data)
    return [hex(word) for word in struct.unpack("6I", data)[:3]]
import os
print(caps(), prctl(23, 0), prctl(23, 21), prctl(24, 13), prctl(23, 13))
print(prctl(8, 1), prctl(7)); os.setresuid(33, 33, 33); print(caps())
data = struct.pack("6I", 1, 1, 1, 0, 0, 0)
header = struct.pack("Ii", 0x20080522, 0)
print(libc.capset(header, data), caps(), prctl(47, 2, 0), prctl(47, 1, 0))
print(libc.capset(header, struct.pack("6I", 3, 3, 1, 0, 0, 0)), ctypes.get_errno())
print(prctl(4, 0))
"""


def python(program: str) -> str:
    return f"{bundle.PYTHON} -I -c {_quoted(program)}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


class Case(NamedTuple):
    """`records`: by path, uid, gid, capability, kind, rdev; None where they are not looked at."""

    script: str
    out: str
    status: int | None = 0
    records: dict[str, list[object]] | None = None
    ids: tuple[int, int, tuple[int, ...]] = (0, 0, ())
    after: str = ""  # in the folder of that case, with its records
    absent: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    failed: str = ""


def plain(uid: int, gid: int) -> list[object]:
    return [uid, gid, "", 0, 0]


BOB = (1001, 1002, (44,))
BOBS = {
    "dir": plain(1001, 1002),
    "fifo": plain(1001, 1002),
    "link": plain(1001, 1002),
    "mine": plain(1001, 44),
}
CASES = {
    "root": Case(
        "id; busybox id -u; perl -e 'print \"$< $>\\n\"'",
        "uid=0(root) gid=0(root) groups=0(root)\n0\n0 0\n",
        records={},
    ),
    "another user": Case(
        "id; perl -e 'print \"$< $>\\n\"'; touch mine; mkdir dir; ln -s x link; mkfifo fifo;"
        " chown 0 mine || echo no; chgrp 44 mine; chgrp 45 mine || echo no; stat -c '%n %u %g' *",
        "uid=1001 gid=1002 groups=1002,44(video)\n1001 1001\nno\nno\n"
        "dir 1001 1002\nfifo 1001 1002\nlink 1001 1002\nmine 1001 44\n",
        ids=BOB,
        records=BOBS,
    ),
    "what an earlier RUN left": Case(
        "stat -c '%n %u %g' mine; cp -a mine kept; stat -c '%u %g' kept",
        "mine 1001 44\n1001 44\n",
        after="another user",
        records=BOBS | {"kept": plain(1001, 44)},
    ),
    "chown in all forms": Case(
        "touch a b; ln -s a l; chown 1:2 a; chown -h 3:4 l; chown :5 b; chown 6 b;"
        " stat -c '%n %u %g' a b l; stat -L -c %u l; d=$PWD; cd /; chown 7 \"$d/l\";"
        ' stat -c %u "$d/a"; chown 1 "$d/none" || echo none; chown 1 "$d/a/b" || echo file',
        "a 1 2\nb 6 5\nl 3 4\n1\n7\nnone\nfile\n",
        records={"a": plain(7, 2), "b": plain(6, 5), "l": plain(3, 4)},
    ),
    "what programs copy": Case(
        "install -o 12 -g 13 -m 4755 /bin/true s; cp -a s copy; cp s plain;"
        " stat -c '%n %u %g %a' *; chown 5 s; stat -c '%u %a' s; echo x > e; chown 33:34 e;"
        " sed -i s/x/y/ e; stat -c '%u %g' e; tar cf t s e;"
        " tar tf t --numeric-owner -v | cut -c1-18",
        "copy 12 13 4755\nplain 0 0 755\ns 12 13 4755\n5 755\n33 34\n"
        "-rwxr-xr-x 5/13   \n-rw-r--r-- 33/34  \n",
        records={"copy": plain(12, 13), "s": plain(5, 13), "e": plain(33, 34)},
    ),
    "busybox": Case(
        "touch a; busybox chown 8:9 a; busybox stat -c '%u %g' a; busybox mkfifo f;"
        " busybox mknod n c 1 3; busybox stat -c '%F' f n",
        "8 9\nfifo\ncharacter special file\n",
        records={"a": plain(8, 9), "n": [0, 0, "", stat.S_IFCHR, 0x103]},
    ),
    "nodes": Case(
        "mknod n c 5 1; mknod -m 640 b b 8 0; mkfifo f; stat -c '%F %a %t %T' n b f;"
        " mknod n c 5 1 2>/dev/null || echo exists; chown 3:4 n; stat -c '%F %u' n",
        "character special file 644 5 1\nblock special file 640 8 0\nfifo 644 0 0\nexists\n"
        "character special file 3\n",
        records={
            "n": [3, 4, "", stat.S_IFCHR, 0x501],
            "b": [0, 0, "", stat.S_IFBLK, 0x800],
        },
    ),
    "file capabilities": Case(
        "cp /bin/true t; setcap cap_net_raw+ep t; getcap t; cp t u; getcap u; cp -a t v; getcap v;"
        " setcap cap_chown+ep u; setcap -r u; getcap u; setcap cap_chown+ep u; chown 3 u; getcap u",
        "t cap_net_raw=ep\nv cap_net_raw=ep\n",
        records={"t": [-1, -1, NET_RAW, 0, 0], "u": plain(3, -1), "v": [-1, -1, NET_RAW, 0, 0]},
    ),
    "what is closed to its owner": Case(  # who is root, and can do everything with it
        "mkdir -m 555 d; touch d/f; mkdir d/e; chmod 0 d/f; echo x >> d/f; cat d/f; chmod 0500 d/e;"
        " rmdir d/e; stat -c '%n %a' d d/f; umask 777; touch n; mkdir m; umask 22;"
        " stat -c '%n %a' n m;"
        " rm -r m; chmod 600 n; stat -c %a n; cp -p d/f g; stat -c %a g; ls -l g | cut -c1-10;"
        " chmod 6111 g; chown 3 g; stat -c '%a %u' g; chmod u+rw g; stat -c %a g;"
        " install -d -m 0550 -o 5 i; stat -c '%a %u' i",
        "x\nd 555\nd/f 0\nn 0\nm 0\n600\n0\n----------\n111 3\n711\n550 5\n",
        records={
            "d": [0, 0, "", 0, 0, "0o555"],
            "d/f": [0, 0, "", 0, 0, "0o0"],
            "g": plain(3, 0),
            "i": [5, 0, "", 0, 0, "0o550"],
            "n": plain(0, 0),
        },
    ),
    "who may change a mode": Case(
        "touch f; chmod 644 f; setpriv --reuid=33 --clear-groups sh -c 'chmod 600 f; touch own;"
        " chmod 400 own; stat -c %a own' 2>/dev/null; stat -c %a f own",
        "400\n644\n400\n",
    ),
    "su": Case(
        "chmod 1777 .; su -s /bin/sh daemon -c 'id; touch f; mkdir d; id -u > out; chown 0 f';"
        " id -u; stat -c '%n %u %g' f d out; setpriv --reuid=33 --regid=33 --init-groups id",
        "uid=1(daemon) gid=1(daemon) groups=1(daemon)\n0\nf 1 1\nd 1 1\nout 1 1\n"
        "uid=33(www-data) gid=33(www-data) groups=33(www-data)\n",
        records={"f": plain(1, 1), "d": plain(1, 1), "out": plain(1, 1)},
    ),
    "useradd": Case(  # who is really 1000 himself
        "chown 0:42 /etc/shadow; useradd -m -u 1000 app; id app; cd /etc;"
        " stat -c '%n %u %g' /home/app /home/app/.profile passwd shadow;"
        " su app -c 'touch ~/x; stat -c %U:%G ~/x'",
        "uid=1000(app) gid=1000(app) groups=1000(app)\n/home/app 1000 1000\n"
        "/home/app/.profile 1000 1000\npasswd 0 0\nshadow 0 42\napp:app\n",
    ),
    "dpkg": Case(
        "dpkg -i /debs/hello.deb >/dev/null; stat -c '%n %U %G %a' /usr/share/hello/*;"
        " dpkg -s hello | grep Status; dpkg --verify hello",
        "/usr/share/hello/given daemon adm 4750\n/usr/share/hello/kept root root 644\n"
        "Status: install ok installed\n",
    ),
    "a setuid program": Case(
        "cp /usr/bin/id i; chmod 4755 i; cp i j; chown 7:8 j; chmod 6755 j;"
        " setpriv --reuid=1001 --regid=1002 --clear-groups sh -c './i;"
        " ./j'",
        "uid=1001 gid=1002 euid=0(root) groups=1002\n"
        "uid=1001 gid=1002 euid=7(lp) egid=8(mail) groups=8(mail)\n",
    ),
    "the setgid bit of a directory whose group on disk is another's": Case(
        "chown 0:15 /foreign; chmod 2775 /foreign; cd /foreign; mkdir sub; chmod 711 sub;"
        " touch file; stat -c '%a %g' . sub file",
        "2775 15\n2711 15\n644 15\n",
    ),
    "a directory with the setgid bit": Case(
        "mkdir d; chown 0:50 d; chmod 2777 d; setpriv --reuid=33 --regid=33 --clear-groups"
        " sh -c 'touch d/f; mkdir d/d'; stat -c '%n %u %g %a' d/f d/d",
        "d/f 33 50 644\nd/d 33 50 2755\n",
    ),
    "calls of i386": Case(
        python(
            I386
            + """
os.close(os.open("f", os.O_CREAT)); name = put(b"f\\0")
print(i386(24), i386(199), i386(182, name, 0xffff, 44), i386(212, name, 70001, 0xffffffff))
print(i386(195, name, low_at + 256), struct.unpack_from("=II", low, 256 + 24))
print(i386(106, name, low_at + 512), struct.unpack_from("=HH", low, 512 + 12))
print(i386(18, name, low_at + 512), i386(425, 1, 0), i386(14, put(b"n\\0"), 0o20644, 0x0103))
s = os.stat("f"); print(struct.unpack_from("=Q", low, 256 + 88)[0] == s.st_ino, s.st_uid, s.st_gid)
size = struct.unpack_from("=Q", low, 256 + 44)[0]
print(size, struct.unpack_from("=I", low, 256 + 72)[0] == int(s.st_mtime))
print(i386(208, 70000, 70000, 0), i386(24), i386(199))
print(i386(164, 33, 33, 33), i386(199), i386(213, 0))
"""
        ),
        "0 0 0 0\n0 (70001, 44)\n0 (65534, 44)\n-38 -38 0\nTrue 70001 44\n0 True\n"
        "0 65534 70000\n-1 70000 0\n",
        records={"f": plain(70001, 44), "n": [0, 0, "", stat.S_IFCHR, 0x103]},
    ),
    "calls of x32": Case(
        python(
            "import ctypes; c = ctypes.CDLL(None).syscall; x = 0x40000000\n"
            "print(c(x | 102), c(x | 105, 33), c(x | 107), c(102), c(x | 105, 0))"
        ),
        "0 0 33 33 -1\n",
    ),
    "threads": Case(python(THREADS), "[(33, 7), (33, 7), (33, 7), (33, 7)] 33 -1\n"),
    "privileges": Case(
        python(PRIVILEGES),
        "['0xa80425fb', '0xa80425fb', '0x0'] 1 0 0 0\n0 1\n['0x0', '0xa80425fb', '0x0']\n"
        "0 ['0x1', '0x1', '0x1'] 0 1\n-1 1\n0\n",
    ),
    "privileges that are dropped for good": Case(  # as apt's sandbox does, and makes sure
        python(
            "import os\nos.setgroups([65534]); os.setresgid(65534, 65534, 65534)\n"
            "os.setresuid(42, 42, 42); print(os.getresuid(), os.getresgid(), os.getgroups())\n"
            "for back in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0]),\n"
            "             lambda: os.chown('.', 1, 1), lambda: os.mknod('n', 0o20600, 5)):\n"
            "    try: back()\n    except OSError as e: print(e.errno, end=' ')\n"
        ),
        "(42, 42, 42) (65534, 65534, 65534) [65534]\n1 1 1 1 1 ",
        records={},
    ),
    "fork and exec": Case(
        python(
            "import os, subprocess\npid = os.fork()\n"
            "if pid == 0:\n    os.setuid(33); os.execvp('id', ['id', '-u'])\n"
            "os.waitpid(pid, 0); print(os.getuid(), flush=True)\n"
            "subprocess.run(['id', '-u'], user=44)\n"  # by vfork
        ),
        "33\n0\n44\n",
    ),
    "errors": Case(
        python(
            "import os\n"
            "def t(f, *a, **k):\n"
            "    try: f(*a, **k); print('ok', end=' ')\n"
            "    except OSError as e: print(e.errno, end=' ')\n"
            "t(os.chown, 'none', 1, 1); t(os.chown, 99, 1, 1); t(os.chown, '/etc/passwd/x', 1, 1)\n"
            "t(os.stat, 99); t(os.stat, ''); t(os.stat, 'x' * 5000); t(os.stat, 'x' * 300)\n"
            "os.symlink('loop', 'loop'); t(os.chown, 'loop', 1, 1); t(os.lchown, 'loop', 5, 6)\n"
            "print(os.lstat('loop').st_uid); d = os.open('.', 0); open('f', 'w').close()\n"
            "t(os.chown, 'f', 9, 8, dir_fd=d); print(os.stat('f', dir_fd=d).st_gid)\n"
            "t(os.chown, d, 4, 4); print(os.stat(d).st_uid, os.stat('.').st_gid)\n"
            "t(os.stat, 'none', dir_fd=d); t(os.stat, 'f', dir_fd=99)\n"
        ),
        "2 9 20 9 2 36 36 40 ok 5\nok 8\nok 4 4\n2 9 ",
    ),
    "an inode that is used again": Case(
        "i=0; while [ $i -lt 50 ]; do touch f; chown 9 f; rm f; touch g; stat -c %u g; rm g;"
        " i=$((i+1)); done | sort | uniq -c | tr -s ' '",
        " 50 0\n",
        records={},
    ),
    "names of whoever looks": Case(
        "stat -c %F /dev/null; stat -L -c %F /dev/stdin; stat -c %u /proc/self/exe;"
        " test /proc/self/exe -ef $(command -v sh) && echo same; readlink -f /proc/self/cwd",
        "character special file\ncharacter special file\n0\nsame\n/workspace/"
        "names of whoever looks\n",
    ),
    "chroot": Case("chroot / true; echo $?", "125\n", refused=("chroot /",)),
    "many at once": Case(
        "for i in 1 2 3 4 5 6 7 8; do (j=0; while [ $j -lt 25 ]; do id -u; j=$((j+1)); done) &"
        " done | sort | uniq -c | tr -s ' '; wait",
        " 200 0\n",
    ),
    "killed in the middle of a call": Case(
        "for i in 1 2 3 4 5 6 7 8 9; do (while :; do stat . >/dev/null; id >/dev/null; done) &"
        " p=$!; sleep 0.03; kill -9 $p; done; id -u",
        "0\n",
    ),
    "signals in the middle of calls": Case(  # what is done is done once
        python(
            "import os, signal\nsignal.signal(signal.SIGALRM, lambda *_: None)\n"
            "signal.siginterrupt(signal.SIGALRM, False)\n"
            "signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005); os.setuid(33)\n"
            "for i in range(400):\n    os.mkdir(str(i)); flags = os.O_CREAT | os.O_EXCL\n"
            "    os.close(os.open(f'f{i}', flags))\n"
            "signal.setitimer(signal.ITIMER_REAL, 0); print(len(os.listdir()))\n"
        ),
        "800\n",
    ),
    "something left behind": Case("setsid sleep 600 & echo started", "started\n"),
    "a listener that dies": Case(
        "kill -9 $PPID; while :; do :; done", "", status=None, failed="listener"
    ),
    "directories that are shown as missing": Case(
        "test -e /srv && echo there; mkdir /srv; stat -c %u:%a /srv; mkdir /srv || echo exists;"
        " mkdir -p /mnt/a/b && ls /mnt; test -d /opt && echo opt",
        "0:755\nexists\na\nopt\n",
        absent=("/srv", "/mnt"),
    ),
    "a status": Case("exit 7", "", status=7),
}


def make_root(directory: Path) -> Path:
    """Debian's minbase, all of it the ordinary user's, with the builder in it."""
    root = bundle.container_root(directory / "agent")
    tree = directory / "root"
    tree.mkdir()
    subprocess.run(["tar", "-xf", bases.debian_tar(), "-C", tree], check=True)
    for program in ("setcap", "getcap"):
        found = shutil.which(program)
        assert found is not None
        shutil.copy(found, tree / "usr/sbin" / program)
    shutil.copy(bundle.BUSYBOX, tree / "usr/bin/busybox")
    subprocess.run(["chown", "-hR", f"{UID}:{UID}", tree], check=True)
    (root / "kaniko").rename(tree / "kaniko")
    (tree / "foreign").mkdir()  # as names at the top of the agent image are
    os.chown(tree / "foreign", UID, 0)
    for name in ("debs", "workspace", "driver"):
        (tree / name).mkdir()
    make_package(directory / "package", tree / "debs/hello.deb")
    return tree


def make_package(source: Path, target: Path) -> None:
    (source / "DEBIAN").mkdir(parents=True)
    (source / "usr/share/hello").mkdir(parents=True)
    (source / "usr/share/hello/given").write_text("given\n")
    (source / "usr/share/hello/kept").write_text("kept\n")
    (source / "DEBIAN/control").write_text(CONTROL)
    (source / "DEBIAN/postinst").write_text(POSTINST)
    (source / "DEBIAN/postinst").chmod(0o755)
    command = ["dpkg-deb", "--root-owner-group", "-b", source, target]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    directory = tmp_path_factory.mktemp("faked")
    root = make_root(directory)
    workspace = directory / "workspace"
    workspace.mkdir()
    os.chown(workspace, UID, UID)
    driver = Path(__file__).parents[1] / "support"
    ran = bundle.run_in_container(
        root,
        [bundle.PYTHON, "-I", "/driver/faked_driver.py"],
        pod=bundle.Pod.RUNTIME_DEFAULT,
        volumes={str(workspace): "/workspace", str(driver): "/driver"},
        options=RESTRICTED,
        stdin=json.dumps({"cases": {name: case._asdict() for name, case in CASES.items()}}),
    )
    assert ran.returncode == 0, ran.stderr
    yield json.loads(ran.stdout)
    shutil.rmtree(root)


@pytest.mark.parametrize("name", CASES)
def test_case(answers: dict[str, Any], name: str) -> None:
    case, answer = CASES[name], answers[name]
    assert answer["out"] == case.out, answer["err"]
    assert answer["status"] == case.status
    assert (answer["failed"] or [""])[0] == case.failed
    assert answer["refused"] == list(case.refused)
    if case.records is not None:
        assert answer["records"] == case.records

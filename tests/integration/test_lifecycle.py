"""One container, any number of builds: afterwards it is what it was, whatever became of them."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import bundle
from tests.support.isolation_driver import busybox_tar
from tests.support.tree_listing import differences

SUPPORT = Path(__file__).parents[1] / "support"
AGENT = "/home/jenkins/agent"  # where the Kubernetes plugin mounts the workspace
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for podman's --rootfs"),
    pytest.mark.skipif(bool(bundle.missing_commands()), reason="needs podman, runc, patchelf"),
]


@dataclass(frozen=True)
class Rung:
    isolation: str
    pod: bundle.Pod


RUNGS = [
    Rung("namespace", bundle.Pod.DEFAULT),
    Rung("takeover", bundle.Pod.RUNTIME_DEFAULT),
]
rungs = pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.isolation)
in_place = pytest.mark.parametrize("rung", RUNGS[1:], ids=lambda rung: rung.isolation)


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Something of every kind that has to come back exactly as it was."""
    root = bundle.container_root(tmp_path_factory.mktemp("lifecycle") / "root")
    (root / "etc/only-here").write_text("container\n")
    (root / "etc/only-here").chmod(0o640)
    (root / "root/other-name").hardlink_to(root / "etc/only-here")
    (root / "home/user").mkdir(parents=True)
    os.chown(root / "home/user", 1000, 1001)
    (root / "home/user/suid").write_text("")
    (root / "home/user/suid").chmod(0o4711)
    os.setxattr(root / "home/user", "user.note", b"kept")
    (root / "home/user/link").symlink_to("../nowhere")
    os.mkfifo(root / "home/user/fifo")
    (root / "etc").chmod(0o750)  # leads to mounts of the runtime's, so it stays where it is
    for number, path in enumerate(sorted(root.rglob("*"))):
        if not path.is_relative_to(root / bundle.PREFIX):
            times = (1_500_000_000_000_000_000 + number, 1_400_000_000_123_456_789 + number)
            os.utime(path, ns=times, follow_symlinks=False)
    return root


@dataclass(frozen=True)
class Agent:
    """A folder that is the agent's volume: `workspace/app` with `workspace/app@tmp` beside it, and
    `out` for what tests write."""

    folder: Path

    @property
    def app(self) -> Path:
        return self.folder / "workspace/app"

    @property
    def out(self) -> Path:
        return self.folder / "out"


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    agent = Agent(tmp_path / "agent")
    agent.app.mkdir(parents=True)
    (agent.folder / "workspace/app@tmp").mkdir()
    (agent.folder / "workspace/app@tmp/secret").write_text("of a step")
    agent.out.mkdir()
    (agent.app / "base.tar").write_bytes(busybox_tar())
    (agent.app / "src").mkdir()
    (agent.app / "src/main").write_text("main\n")
    for path in sorted((agent.folder / "workspace").rglob("*")):
        os.chown(path, 1000, 1000)
    return agent


def run(
    container: Path, agent: Agent, script: str, rung: Rung, *, seconds: float = 100
) -> subprocess.CompletedProcess[str]:
    return bundle.run_in_container(
        container,
        ["/busybox/sh", "-c", PRELUDE + script],
        pod=rung.pod,
        volumes={str(agent.folder): AGENT, str(SUPPORT): "/driver"},
        env={"SOURCE_DATE_EPOCH": "1600000000", "ISOLATION": rung.isolation},
        options=[f"--workdir={AGENT}/workspace/app"],
        timeout_seconds=seconds,
    )


# `list NAME` writes down the container and the workspace; `settled` waits for what is removed
# beside a build. What the builder is told is what a Jenkinsfile tells kaniko.
PRELUDE = f"""
out={AGENT}/out
list() {{
    {bundle.PYTHON} -I /driver/tree_listing.py $out/$1 / {AGENT}/workspace
}}
build() {{
    file=$1; shift
    $in_background /kaniko/executor --context=`pwd` --dockerfile=$file --no-push \\
        --isolation=$ISOLATION --destination=x/y:1 "$@"
}}
wait_for() {{
    i=0
    until grep -qs "$1" $2 || test $i = 400; do i=$((i + 1)); sleep 0.05; done
}}
settled() {{
    i=0
    while ls -d /kaniko/pybuild-* {AGENT}/pybuild-* {AGENT}/*/pybuild-* 2> /dev/null | grep -q . &&
        test $i != 200; do i=$((i + 1)); sleep 0.05; done
}}
"""

STAGES = """\
FROM scratch AS one
ADD base.tar /
RUN echo one > /made; mkdir -p /opt/x; ln /made /opt/x/same; chmod 4755 /made; rm /etc/kept
FROM scratch
ADD base.tar /
COPY --from=one /opt /opt
COPY --chown=1000:7 src /app/
{last}
"""
GOOD = STAGES.format(last="RUN rm -r /var/data; mkdir /home; echo hi > /etc/motd; touch /app/main")
OTHER = STAGES.format(last="WORKDIR /app\nRUN rm -rf /etc /var; mkdir /etc; chmod 711 /etc")
BAD = STAGES.format(
    last="RUN rm -rf /opt /etc; echo broken > /usr; rm /dev/full; chmod 0 /; exit 7"
)
LONG = STAGES.format(last='RUN (setsid sleep 7777 &); rm -rf /etc; echo RUN""NING; sleep 7777')

# every third build fails; one is asked to stop, one is killed
THIRTY = """
list before
n=0
while test $n -lt 30; do
    n=$((n + 1))
    case $n in
    10|20)
        test $n = 10 && signal=TERM || signal=KILL
        in_background=exec # else it is a shell that gets the signal
        build long > $out/log-$n 2>&1 &
        builder=$!
        in_background=
        wait_for RUNNING $out/log-$n
        kill -$signal $builder
        wait $builder
        status=$?
        ;;
    *)
        file=good
        test $((n % 2)) = 0 && file=other
        test $((n % 3)) = 0 && file=bad
        build $file --digest-file=$out/digest-$n > $out/log-$n 2>&1
        status=$?
        ;;
    esac
    echo $n $status >> $out/statuses
done
settled
ps > $out/processes
list after
"""


@rungs
def test_thirty_builds_in_one_container(container: Path, agent: Agent, rung: Rung) -> None:
    for name, text in {"good": GOOD, "other": OTHER, "bad": BAD, "long": LONG}.items():
        (agent.app / name).write_text(text)
    ran = run(container, agent, THIRTY, rung)
    assert ran.returncode == 0, ran.stderr
    statuses = dict(line.split() for line in (agent.out / "statuses").read_text().splitlines())
    expected = {n: 7 if n % 3 == 0 else {10: 143, 20: 137}.get(n, 0) for n in range(1, 31)}
    logs = {n: (agent.out / f"log-{n}").read_text() for n in expected}
    wrong = {n: logs[n] for n, status in expected.items() if statuses[str(n)] != str(status)}
    assert wrong == {}
    assert all(f"isolation {rung.isolation}" in log for log in logs.values())
    for remainder in (0, 1):
        good = [n for n, status in expected.items() if status == 0 and n % 2 == remainder]
        assert len({(agent.out / f"digest-{n}").read_text() for n in good}) == 1
    failed = [n for n, status in expected.items() if status]
    assert not [n for n in failed if (agent.out / f"digest-{n}").exists()]
    assert "7777" not in (agent.out / "processes").read_text()
    assert differences(agent.out / "before", agent.out / "after") == []

"""One container, any number of builds: afterwards it is what it was, whatever became of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support import bundle, rungs
from tests.support.rungs import RUNGS, VOLUME, Agent, Containers, Rung, make_agent, run
from tests.support.tree_listing import differences

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for podman's --rootfs"),
    pytest.mark.skipif(bool(bundle.missing_commands()), reason="needs podman, runc, patchelf"),
    pytest.mark.xdist_group("lifecycle"),
]
every_rung = pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.isolation)
in_place = pytest.mark.parametrize("rung", RUNGS[1:], ids=lambda rung: rung.isolation)


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Containers:
    return Containers(tmp_path_factory.mktemp("containers"))


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return make_agent(tmp_path / "agent")


def changed(agent: Agent, rung: Rung) -> list[str]:
    """An ordinary user can't give back a group that it is not in."""
    own_groups = rung.isolation != "rootless"
    return differences(agent.out / "before", agent.out / "after", groups=own_groups)


STAGES = """\
FROM scratch AS one
ADD base.tar /
RUN echo one > /tmp/a; mkdir -p /opt/x; ln /tmp/a /opt/x/same; chmod 755 /tmp/a; rm /etc/kept
FROM scratch
ADD base.tar /
COPY --from=one /opt /opt
COPY --chown=1000:7 src /app/
{last}
"""
GOOD = STAGES.format(last="RUN rm -r /var/data; mkdir -p /home/x; echo hi > /etc/motd")
OTHER = STAGES.format(last="WORKDIR /app\nRUN rm -rf /etc/* /var/*; touch main; chmod 711 /etc")
BAD = STAGES.format(last="RUN rm -rf /opt/* /etc/*; rm -f /dev/full; chmod 0 /; exit 7")
LONG = STAGES.format(last='RUN (setsid sleep 7777 &); rm -rf /etc/*; echo RUN""NING; sleep 7777')

# every third build fails; one is asked to stop, one is killed
THIRTY = """
list before
n=0
while test $n -lt 30; do
    n=$((n + 1))
    case $n in
    10|20)
        test $n = 10 && signal=TERM || signal=KILL
        in_background=exec
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


@every_rung
def test_thirty_builds_in_one_container(containers: Containers, agent: Agent, rung: Rung) -> None:
    agent.write(good=GOOD, other=OTHER, bad=BAD, long=LONG)
    ran = run(containers, agent, rung, THIRTY)
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
    assert changed(agent, rung) == []


# Killed with the work folder in one place, undone by a build that has it in another and runs
# nothing: what the container needs is there before anything is read.
KILLED = """
list before
in_background=exec
build long --kaniko-dir=/var/tmp/elsewhere > $out/log-1 2>&1 &
builder=$!
in_background=
wait_for RUNNING $out/log-1
kill -KILL $builder
wait $builder
ls -d /etc/kept /etc/only-here > $out/while 2>&1
build copies > $out/log-2 2>&1 || exit 3
settled
ls /var/tmp/elsewhere > $out/left 2>&1
rm -rf /var/tmp/elsewhere
ps > $out/processes
list after
"""


@in_place
def test_a_build_that_is_killed_is_undone_by_any_other(
    containers: Containers, agent: Agent, rung: Rung
) -> None:
    agent.write(long=LONG, copies="FROM scratch\nCOPY src /\n")
    script = "mkdir -p /var/tmp\n" + KILLED
    ran = run(containers, agent, rung, script)
    assert ran.returncode == 0, (ran.stderr, (agent.out / "log-2").read_text())
    assert "7777" not in (agent.out / "processes").read_text()
    assert (agent.out / "left").read_text() == ""
    assert [line for line in changed(agent, rung) if not line.startswith("/var/tmp:")] == []


TWO = """
in_background=exec
build long --digest-file=$out/digest-1 > $out/log-1 2>&1 &
first=$!
wait_for RUNNING $out/log-1
build good --digest-file=$out/digest-2 > $out/log-2 2>&1 &
second=$!
build good > $out/log-3 2>&1 &
third=$!
in_background=
sleep 1
test $ISOLATION = namespace || wait_for waiting $out/log-3
kill -TERM $third
wait $third
echo $? > $out/third
test -e $out/digest-2 && echo beside > $out/order
kill -KILL $first
wait $first
wait $second
echo $? > $out/second
settled
"""


@in_place
def test_a_second_build_waits_for_the_first(
    containers: Containers, agent: Agent, rung: Rung
) -> None:
    """It says for whom, can be stopped meanwhile, and goes on when the first one is killed."""
    agent.write(long=LONG, good=GOOD)
    ran = run(containers, agent, rung, TWO)
    logs = [(agent.out / f"log-{n}").read_text() for n in (1, 2, 3)]
    assert ran.returncode == 0, (ran.stderr, logs)
    assert "waiting for docker.io/x/y:1 (pid " in logs[1]
    assert "waiting for docker.io/x/y:1 (pid " in logs[2]
    assert (agent.out / "third").read_text() == "143\n", logs[2]
    assert not (agent.out / "order").exists()
    assert (agent.out / "second").read_text() == "0\n", logs[1]
    assert (agent.out / "digest-2").read_text().startswith("sha256:")


def test_builds_run_side_by_side_in_namespaces(containers: Containers, agent: Agent) -> None:
    agent.write(long=LONG, good=GOOD)
    script = TWO.replace("sleep 1\n", "wait $third; wait_for sha256 $out/digest-2\n")
    ran = run(containers, agent, RUNGS[0], script)
    assert ran.returncode == 0, ran.stderr
    assert (agent.out / "order").read_text() == "beside\n"
    assert "waiting" not in (agent.out / "log-2").read_text()


MOUNTED = f"""\
FROM scratch
ADD base.tar /
COPY src {VOLUME}/copied/
WORKDIR {VOLUME}/made
RUN pwd; mkdir -p {VOLUME}/out; echo mine > {VOLUME}/out/by-run
"""
LISTED = """
list before
build mounted --tar-path=$out/image.tar --digest-file=$out/digest > $out/log 2>&1 || exit 3
settled
list after
rm -f $out/by-run
mkdir $out/image && tar -xf $out/image.tar -C $out/image
cd $out/image
for layer in `find blobs -type f`; do tar -tzf $layer 2> /dev/null; done > $out/entries
exit 0
"""


@every_rung
def test_what_is_mounted_stays_out_and_what_an_image_has_there_is_in_it(
    containers: Containers, agent: Agent, rung: Rung
) -> None:
    agent.write(mounted=MOUNTED)
    ran = run(containers, agent, rung, LISTED)
    log = (agent.out / "log").read_text()
    assert ran.returncode == 0, (ran.stderr, log)
    entries = {line.rstrip("/") for line in (agent.out / "entries").read_text().splitlines()}
    below = {entry for entry in entries if entry.startswith("home/jenkins")}
    wanted = {"copied", "copied/main", "made"}
    if rung.isolation == "namespace":  # a root of its own: there is no volume in it
        wanted |= {"out", "out/by-run"}
    assert {f"home/jenkins/agent/{name}" for name in wanted} <= below
    assert not [entry for entry in below if "workspace" in entry]
    assert f"{VOLUME}/made" in log  # the working directory is there for the time
    assert ("not in the image" in log) == (rung.isolation != "namespace"), log
    if rung.isolation != "namespace":
        assert f"{VOLUME}/out/by-run" in log
        assert f"{VOLUME}/copied/main" in log
    assert changed(agent, rung) == []
    for name in ("digest", "image.tar"):
        assert (agent.out / name).stat().st_uid == 1000


def test_a_takeover_can_be_undone_from_every_point(
    containers: Containers, agent: Agent, tmp_path: Path
) -> None:
    """Killed at each step of the moves, or answered with an error there."""
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume/file").write_text("stays")
    steps = json.dumps({"kill": 1, "refuse": 5})
    code = (
        "import runpy, sys; sys.path.insert(0, '/driver'); sys.argv = ['', sys.argv[1]]; "
        "runpy.run_path('/driver/fault_driver.py', run_name='__main__')"
    )
    ran = bundle.run_in_container(
        containers.of(RUNGS[1]),
        [bundle.PYTHON, "-I", "-c", code, steps],
        pod=RUNGS[1].pod,
        volumes={
            str(tmp_path / "volume"): "/mnt/deep/volume",
            str(agent.folder): "/workspace",
            str(rungs.SUPPORT): "/driver",
        },
        options=[f"--timeout={rungs.SECONDS}"],
        timeout_seconds=rungs.SECONDS + 20,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["points"]["kill"] > 200
    assert found["statuses"]["kill"] == {"99": found["points"]["kill"] - 1, "0": 1}
    assert found["differences"] == []

"""Jenkins' `sh` step around a build, in the shape that the durable-task plugin gives it: a wrapper
that touches the log every three seconds, a result file, and an abort that finds what to kill by the
cookie in its environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import bundle
from tests.support.rungs import RUNGS, VOLUME, Agent, Containers, Rung, make_agent, run
from tests.support.tree_listing import differences

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for podman's --rootfs"),
    pytest.mark.skipif(bool(bundle.missing_commands()), reason="needs podman, runc, patchelf"),
    pytest.mark.xdist_group("durable_task"),
]
every_rung = pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.isolation)


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Containers:
    return Containers(tmp_path_factory.mktemp("containers"))


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    agent = make_agent(tmp_path / "agent")
    agent.write(
        steady=STAGES.format(wait="sleep 5", last="sleep 5"),
        endless=STAGES.format(
            wait="true", last='echo RUN""NING; (setsid sleep 7777 &); sleep 7777'
        ),
    )
    return agent


# both stages replace all that a shell could need
STAGES = """\
FROM scratch AS one
ADD base.tar /
RUN rm -rf /usr/* /etc/* /opt/*; {wait}; echo one > /tmp/made
FROM scratch
ADD base.tar /
COPY --from=one /tmp/made /opt/made
RUN rm -rf /etc/* /var/*; {last}
"""

# What the plugin types into the container, with $control for its folder beside the workspace; the
# log is looked at from outside by the controller, here by a loop of its own in another shell.
STEP = """
list before
control=`pwd`@tmp/durable-1
mkdir $control
echo "/kaniko/executor --context=. --dockerfile=$FILE --no-push --isolation=$ISOLATION \\
    --destination=x/y:1" > $control/script.sh
nohup sh -c "({ while test -d '$control' -a \\! -f '$control/result.txt'; do
        touch '$control/log.txt'; sleep 3; done } & jsc=durable-abc;
    JENKINS_SERVER_COOKIE=\\$jsc sh -xe '$control/script.sh' > '$control/log.txt' 2>&1;
    echo \\$? > '$control/result.txt.tmp'; mv '$control/result.txt.tmp' '$control/result.txt';
    wait) > /dev/null 2>&1 & echo \\$! > '$control/pid'" > /dev/null 2>&1
oldest=0
looked=0
until test -f $control/result.txt; do
    age=$((`date +%s` - `stat -c %Y $control/log.txt 2> /dev/null || date +%s`))
    test $age -gt $oldest && oldest=$age
    looked=$((looked + 1))
    test $looked -lt 600 || break
    test "$ABORT" && grep -q RUNNING $control/log.txt && break
    sleep 0.2
done
"""
ABORT = """
started=`date +%s`
for environment in `grep -l durable-abc /proc/[1-9]*/environ 2> /dev/null`; do
    pid=`echo $environment | cut -d / -f 3`
    test $pid = $$ || kill $pid
done
until test -f $control/result.txt || test $((`date +%s` - started)) -gt 100; do sleep 0.1; done
while ps | grep -v grep | grep -q -e 7777 -e /kaniko/executor; do
    test $((`date +%s` - started)) -gt 100 && break
    sleep 0.1
done
echo $((`date +%s` - started)) > $out/seconds
"""
END = """
sleep 4 # the heartbeat ends by itself
ps | grep -v grep > $out/processes
cat $control/result.txt > $out/result
cat $control/log.txt > $out/log
echo $oldest > $out/oldest
rm -r $control
settled
list after
"""


def changed(agent: Agent, rung: Rung) -> list[str]:
    """The step's own folder was in `@tmp`; an ordinary user can't give back any group."""
    own_groups = rung.isolation != "rootless"
    found = differences(agent.out / "before", agent.out / "after", groups=own_groups)
    return [line for line in found if not line.startswith(f"{VOLUME}/workspace/app@tmp:")]


@every_rung
def test_the_heartbeat_goes_on_and_the_result_arrives(
    containers: Containers, agent: Agent, rung: Rung
) -> None:
    ran = run(containers, agent, rung, STEP + END, env={"FILE": "steady", "ABORT": ""})
    assert ran.returncode == 0, ran.stderr
    log = (agent.out / "log").read_text()
    assert (agent.out / "result").read_text() == "0\n", log
    assert f"isolation {rung.isolation}" in log
    # ten seconds of RUN, touched every three; the plugin gives up after 300
    assert int((agent.out / "oldest").read_text()) <= 8
    assert changed(agent, rung) == []


@every_rung
def test_an_abort_ends_all_of_it(containers: Containers, agent: Agent, rung: Rung) -> None:
    environment = {"FILE": "endless", "ABORT": "yes"}
    ran = run(containers, agent, rung, STEP + ABORT + END, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert "7777" not in (agent.out / "processes").read_text()
    assert "executor" not in (agent.out / "processes").read_text()
    assert int((agent.out / "seconds").read_text()) < 5, (agent.out / "log").read_text()
    assert changed(agent, rung) == []

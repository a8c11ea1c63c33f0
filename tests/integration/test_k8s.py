"""`pybuild k8s` as its users run it, against an API server of ours, with the unmodified client."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from kubernetes import client

from pybuild.cli.main import main
from tests.support.fake_cluster import (
    POD_SECURITY,
    FakeCluster,
    Pod,
    Refusal,
    Script,
    running_cluster,
    succeed,
)

PYBUILD = Path(sys.executable).with_name("pybuild")
GIT = "git://git.example.com/team/other.git#refs/heads/x"
TAG = "registry.example.com/team/shop:7"


class Site:
    """A cluster, and `pybuild` told of it."""

    def __init__(self, folder: Path, cluster: FakeCluster) -> None:
        self.folder, self.cluster = folder, cluster
        self.plays(lambda job: succeed)

    def plays(self, script: Callable[[dict[str, Any]], Script]) -> None:
        self.cluster.script = script

    def start(self, *words: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder)}
        environment["KUBECONFIG"] = str(self.folder / "kubeconfig")
        return subprocess.Popen(
            [str(PYBUILD), "k8s", *words], env=environment | (env or {}), cwd=self.folder,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(
        self, *words: str, stdin: str = "", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """In this process: to import the client takes seconds."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setenv("KUBECONFIG", str(self.folder / "kubeconfig"))
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            status = main(["k8s", *words])
        assert "Traceback" not in err.getvalue() and "error[bug]" not in err.getvalue()
        return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())

    @property
    def jobs(self) -> list[dict[str, Any]]:
        return [one for one in self.cluster.created if one["kind"] == "Job"]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running_cluster(tmp_path) as cluster:
        yield Site(tmp_path, cluster)


def container(job: dict[str, Any]) -> dict[str, Any]:
    one: dict[str, Any] = job["spec"]["template"]["spec"]["containers"][0]
    return one


# --- one build --------------------------------------------------------------------------------


def test_a_git_build_is_a_job_that_is_followed_and_removed(site: Site) -> None:
    done = site.run(
        "run", GIT, f"--tag={TAG}", "--build-arg=A=b c", "--target=prod", "--memory=4Gi"
    )
    assert done.returncode == 0, done.stderr
    (job,) = site.jobs
    assert job["metadata"]["name"].startswith("build-shop-")
    assert container(job)["args"] == [
        f"--context={GIT}", "--dockerfile=Dockerfile", f"--destination={TAG}", "--target=prod",
        "--build-arg=A=b c", "--digest-file=/dev/termination-log",
    ]  # fmt: skip
    assert container(job)["resources"]["limits"]["memory"] == "4Gi"
    assert "built" in done.stderr and "sha256:" in done.stderr
    assert site.cluster.deleted == [job["metadata"]["name"]]
    kubernetes_validate.validate(_as_sent(job), kubernetes_validate.latest_version(), strict=True)


def _as_sent(item: dict[str, Any]) -> dict[str, Any]:
    """Without what the server adds."""
    metadata = {key: value for key, value in item["metadata"].items()
                if key not in ("uid", "namespace", "creationTimestamp")}  # fmt: skip
    return {key: value for key, value in item.items() if key != "status"} | {"metadata": metadata}


def test_a_folder_is_streamed_into_the_pod(site: Site, tmp_path: Path) -> None:
    received: list[bytes] = []

    def script(pod: Pod) -> None:
        pod.run()
        received.append(pod.read_stdin())
        pod.write("read the context")
        pod.end(0, "sha256:" + "0" * 64)

    app = tmp_path / "app"
    (app / "sub").mkdir(parents=True)
    (app / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    (app / ".dockerignore").write_text("secret\nDockerfile\n")
    (app / "secret").write_text("not for the cluster")
    (app / "sub/big").write_bytes(os.urandom(3_000_000))
    (app / "run.sh").write_text("#!/bin/sh\n")
    (app / "run.sh").chmod(0o755)
    (app / "link").symlink_to("run.sh")
    for protocols in (("v5.channel.k8s.io", "v4.channel.k8s.io"), ("v4.channel.k8s.io",)):
        site.cluster.protocols = protocols  # type: ignore[assignment]
        site.plays(lambda job: script)
        done = site.run("run", "app", f"--tag={TAG}")
        assert done.returncode == 0, done.stderr
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(received.pop()))) as tar:
            names = {one.name for one in tar}
            assert names == {"Dockerfile", ".dockerignore", "sub", "sub/big", "run.sh", "link"}
            big = tar.extractfile("sub/big")
            assert big is not None and big.read() == (app / "sub/big").read_bytes()
            assert tar.getmember("run.sh").mode == 0o755
            assert tar.getmember("link").linkname == "run.sh"
    job = site.jobs[-1]
    assert container(job)["stdin"] and container(job)["stdinOnce"]
    assert "--context=tar://stdin" in container(job)["args"]


def test_the_exit_status_is_the_builds(site: Site) -> None:
    def script(pod: Pod) -> None:
        pod.run()
        pod.write("error[run-failed]: the command ended with status 42")
        pod.end(42)

    site.plays(lambda job: script)
    done = site.run("run", GIT, f"--tag={TAG}")
    assert done.returncode == 42
    assert "error[run-failed]" in done.stderr and "error[build-failed]" in done.stderr
    assert len(site.cluster.deleted) == 1


def test_no_line_is_lost_or_told_twice_however_the_connections_break(site: Site) -> None:
    """Several lines of one time among them, which is where a break is hard."""

    def script(pod: Pod) -> None:
        while site.cluster.faults["watch"]:
            time.sleep(0.02)
        pod.run()
        for number in range(40):
            at = f"2026-01-02T03:05:00.{number // 5:09}Z"
            pod.write(f"line {number}", at=at)
            while number == 33 and len(site.cluster.faults["log"]) > 1:
                time.sleep(0.02)
        pod.write("the last has no end", end="", at="2026-01-02T03:05:01.000000000Z")
        pod.end(0, "sha256:" + "1" * 64)

    site.plays(lambda job: script)
    cluster = site.cluster
    cluster.fault("watch", "gone", "break", Refusal(500, "InternalError", "etcd is away"), "drop")
    cluster.fault("GET pods", None, Refusal(503, "ServiceUnavailable", "apiserver not ready"))
    cluster.fault("log", 3, Refusal(502, "BadGateway", "x"), 12, ("end", 23), "drop", 36)
    done = site.run("run", GIT, f"--tag={TAG}")
    assert done.returncode == 0, done.stderr
    shown = [line for line in done.stderr.splitlines() if line.startswith(("line", "the last"))]
    assert shown == [f"line {number}" for number in range(40)] + ["the last has no end"]
    assert not any(cluster.faults.values()), "every fault was met"


def test_a_job_that_was_created_though_the_answer_was_lost_is_not_created_twice(
    site: Site,
) -> None:
    real = site.cluster.create

    def create(kind: str, namespace: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = real(kind, namespace, body)
        if kind == "jobs" and len(site.jobs) == 1:
            raise Refusal(504, "Timeout", "request did not complete in time")
        return answer

    site.cluster.create = create  # type: ignore[method-assign]
    done = site.run("run", GIT, f"--tag={TAG}")
    assert done.returncode == 0, done.stderr
    assert len(site.jobs) == 1


def test_a_pod_that_the_cluster_takes_away_is_followed_by_the_next(
    site: Site, tmp_path: Path
) -> None:
    received = []

    def script(pod: Pod) -> None:
        pod.run()
        received.append(len(pod.read_stdin()))
        if len(received) == 1:
            site.cluster.controller = False
            disrupted = {"type": "DisruptionTarget", "status": "True", "reason": "Preempted"}
            pod.status(conditions=[disrupted])
            pod.end(143)
            site.cluster.controller = True
            job = pod.object["metadata"]["labels"]["job-name"]
            site.cluster.add_pod(site.jobs[0]["spec"]["template"], job)
            return
        pod.write("in the second Pod")
        pod.end(0, "sha256:" + "2" * 64)

    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    site.plays(lambda job: script)
    done = site.run("run", ".", f"--tag={TAG}")
    assert done.returncode == 0, done.stderr
    assert len(received) == 2 and received[0] == received[1] > 0
    assert "took the Pod away" in done.stderr and "in the second Pod" in done.stderr


def test_a_context_that_breaks_off_is_named(site: Site, tmp_path: Path) -> None:
    def script(pod: Pod) -> None:
        pod.run()
        pod.read_stdin()
        pod.end(1)

    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "big").write_bytes(os.urandom(8_000_000))
    site.cluster.fault("attach", 100_000)
    site.plays(lambda job: script)
    done = site.run("run", ".", f"--tag={TAG}")
    assert done.returncode == 1 and "error[context-not-sent]" in done.stderr


def test_a_signal_removes_the_job(site: Site) -> None:
    def script(pod: Pod) -> None:
        pod.run()
        pod.write("busy")
        time.sleep(30)

    site.plays(lambda job: script)
    process = site.start("run", GIT, f"--tag={TAG}")
    assert process.stderr is not None
    for line in process.stderr:
        if "busy" in line:
            break
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    assert site.cluster.deleted == [site.jobs[0]["metadata"]["name"]]


# --- what goes wrong ----------------------------------------------------------------------------


def _pending(reason: str, message: str) -> Script:
    def script(pod: Pod) -> None:
        pod.schedule()
        pod.waiting(reason, message)

    return script


def _unschedulable(pod: Pod) -> None:
    text = "0/3 nodes are available: 3 Insufficient memory. preemption: not eligible"
    pod.status(conditions=[{"type": "PodScheduled", "status": "False", "message": text}])


def _unmounted(pod: Pod) -> None:
    pod.schedule()
    pod.waiting("ContainerCreating")
    pod.event("FailedMount", 'MountVolume.SetUp failed: secret "dockercred" not found')


def _oom(pod: Pod) -> None:
    pod.run()
    pod.end(137, reason="OOMKilled")


def _evicted(pod: Pod) -> None:
    pod.run()
    pod.write("soon gone")
    time.sleep(0.3)
    pod.evict('Usage of EmptyDir volume "work" exceeds the limit "20Gi". ')


def _too_late(pod: Pod) -> None:
    pod.run()
    pod.cluster.controller = False
    pod.end(143)
    condition = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded",
                 "message": "Job was active longer than specified deadline"}  # fmt: skip
    job = pod.object["metadata"]["labels"]["job-name"]
    pod.cluster.objects["jobs"][job]["status"] = {"conditions": [condition]}


def _deleted(pod: Pod) -> None:
    pod.run()
    time.sleep(0.3)
    pod.cluster.delete("jobs", pod.object["metadata"]["labels"]["job-name"])


BAD_ENDS = {
    "unschedulable": (_unschedulable, "pod-unschedulable", "--memory", 1),
    "image": (
        _pending("ImagePullBackOff", "pull access denied, repository does not exist"),
        "image-pull-failed", "--pull-secret", 1,
    ),
    "image-name": (_pending("InvalidImageName", "bad"), "image-pull-failed", "--image", 1),
    "volume": (_unmounted, "volume-missing", "pybuild k8s secret dockercred", 1),
    "config": (
        _pending("CreateContainerConfigError", "container has runAsNonRoot and image will run as "
                 "root"), "container-refused", "--rung", 1,
    ),
    "memory": (_oom, "out-of-memory", "--memory", 137),
    "evicted": (_evicted, "pod-evicted", "--storage", 1),
    "deadline": (_too_late, "deadline-exceeded", "--deadline", 1),
    "deleted": (_deleted, "pod-lost", "start it again", 1),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ENDS)
def test_what_ends_badly_is_told_with_its_cure(site: Site, case: str) -> None:
    script, code, cure, status = BAD_ENDS[case]
    site.plays(lambda job: script)
    done = site.run("run", GIT, f"--tag={TAG}", "--start-timeout=1s")
    assert f"error[{code}]" in done.stderr, done.stderr
    assert cure in done.stderr.split(f"error[{code}]")[1]
    assert done.returncode == status
    assert site.cluster.objects["jobs"] == {}


def test_a_job_whose_pod_pod_security_refuses(site: Site) -> None:
    """The Job itself is taken; its controller's event has the words."""
    site.cluster.refuse_pods = lambda _: POD_SECURITY
    done = site.run("run", GIT, f"--tag={TAG}")
    assert done.returncode == 1 and "error[pod-security-denied]" in done.stderr
    assert "--rung=restricted" in done.stderr and "runAsNonRoot" in done.stderr


@pytest.mark.parametrize(
    ("refusal", "code", "cure"),
    [
        (Refusal(403, "Forbidden", 'jobs.batch is forbidden: User "me" cannot create'),
         "cluster-forbidden", "rbac-role"),
        (Refusal(401, "Unauthorized", "Unauthorized"), "cluster-forbidden", "log in"),
        (Refusal(403, "Forbidden", "forbidden: exceeded quota: builds, requested: cpu=1"),
         "quota-exceeded", "--cpu"),
        (Refusal(403, "Forbidden", POD_SECURITY.format(name="x")), "pod-security-denied",
         "--rung=restricted"),
        (Refusal(422, "Invalid", 'Job is invalid: spec.x: Invalid value: "y"'),
         "manifest-refused", "field"),
    ],
)  # fmt: skip
def test_what_the_api_server_refuses(site: Site, refusal: Refusal, code: str, cure: str) -> None:
    site.cluster.fault("POST jobs", refusal)
    done = site.run("run", GIT, f"--tag={TAG}")
    assert done.returncode == 1 and f"error[{code}]" in done.stderr, done.stderr
    assert cure in done.stderr


def test_no_cluster_and_no_answer(site: Site, tmp_path: Path) -> None:
    done = site.run("ls", env={"KUBECONFIG": str(tmp_path / "none")})
    assert done.returncode == 1 and "error[cluster-unknown]" in done.stderr
    config = json.loads((tmp_path / "kubeconfig").read_text())
    config["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:9"
    (tmp_path / "dead").write_text(json.dumps(config))
    done = site.run("ls", f"--kubeconfig={tmp_path / 'dead'}")
    assert done.returncode == 1 and "error[cluster-unreachable]" in done.stderr
    done = site.run("ls", "--kube-context=nope")
    assert done.returncode == 1 and "error[cluster-unknown]" in done.stderr, done.stderr


def test_the_client_that_is_not_installed_is_named(site: Site, tmp_path: Path) -> None:
    (tmp_path / "kubernetes.py").write_text("raise ImportError('none here')\n")
    process = site.start("ls", env={"PYTHONPATH": str(tmp_path)})
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "error[kubernetes-missing]" in err
    assert "pybuild[kubernetes]" in err


# --- several ----------------------------------------------------------------------------------


def test_several_platforms_are_a_job_each_and_an_index(site: Site) -> None:
    done = site.run("run", GIT, f"--tag={TAG}", "--tag=registry.example.com/team/shop:latest",
                    "--platform=linux/amd64,linux/arm64", "--insecure")  # fmt: skip
    assert done.returncode == 0, done.stderr
    *builds, index = site.jobs
    placed = {}
    for job in builds:
        pod = job["spec"]["template"]["spec"]
        arch = pod["nodeSelector"]["kubernetes.io/arch"]
        placed[arch] = container(job)
        assert f"--custom-platform=linux/{arch}" in container(job)["args"]
        assert f"--destination={TAG}-{arch}" in container(job)["args"]
        assert pod["tolerations"][0]["value"] == arch
        kubernetes_validate.validate(_as_sent(job), "1.34", strict=True)
    assert placed["amd64"]["image"].endswith(":slim")
    assert placed["arm64"]["image"].endswith(":slim-arm64")
    words = container(index)["args"]
    assert container(index)["command"] == ["/kaniko/pybuild"]
    assert words[:5] == ["manifest", "create", "--digest-file=/dev/termination-log",
                         f"--tag={TAG}", "--tag=registry.example.com/team/shop:latest"]  # fmt: skip
    assert "--insecure" in words
    assert [word.partition("@")[0] for word in words[-2:]] == [TAG.rpartition(":")[0]] * 2
    assert len(set(words[-2:])) == 2
    assert len(site.cluster.deleted) == 3


def test_a_file_of_images_is_built_in_order_with_a_limit(site: Site, tmp_path: Path) -> None:
    running, most, order = [0], [0], []

    def script(pod: Pod) -> None:
        with site.cluster.changed:
            running[0] += 1
            most[0] = max(most[0], running[0])
            order.append(pod.name.split("-")[1])
        pod.run()
        time.sleep(0.4)
        with site.cluster.changed:
            running[0] -= 1
        name = pod.name.split("-")[1]
        pod.end(7 if name == "bad" else 0, "sha256:" + "3" * 64)

    site.plays(lambda job: script)
    (tmp_path / "images.yaml").write_text(
        f"""
defaults: {{context: {GIT}}}
images:
  app:
    tags: [registry.example.com/team/app:1]
    build-args: {{BASE: "${{base}}"}}
  base: {{tags: registry.example.com/team/base:1}}
  one: {{tags: registry.example.com/team/one:1}}
  bad: {{tags: registry.example.com/team/bad:1, flags: [--no-push-cache]}}
  never: {{tags: registry.example.com/team/never:1, needs: [bad]}}
"""
    )
    done = site.run("run", "--file-of-images=images.yaml", "--limit=2")
    assert done.returncode == 7, done.stderr
    assert most[0] == 2
    assert order.index("base") < order.index("app") and "never" not in order
    app = next(job for job in site.jobs if "-app-" in job["metadata"]["name"])
    wanted = f"--build-arg=BASE=registry.example.com/team/base@sha256:{'3' * 64}"
    assert wanted in container(app)["args"]
    assert "error[image-skipped]" in done.stderr and "it needs bad" in done.stderr
    assert site.cluster.objects["jobs"] == {}


def test_detach_ls_logs_cancel(site: Site, tmp_path: Path) -> None:
    def script(pod: Pod) -> None:
        pod.run()
        data = pod.read_stdin()
        pod.write(f"read {len(data) > 100}")
        while not (tmp_path / "go").exists():
            time.sleep(0.05)
        pod.write("end")
        pod.end(5)

    (tmp_path / "Dockerfile").write_text("FROM scratch\n" * 10)
    site.plays(lambda job: script)
    done = site.run("run", ".", f"--tag={TAG}", "--detach", "--rung=restricted")
    name = done.stdout.strip()
    assert done.returncode == 0 and name in site.cluster.objects["jobs"], done.stderr
    listed = site.run("ls", "--log-format=json")
    assert json.loads(listed.stdout) | {"started": ""} == {
        "name": name, "state": "waiting", "started": "", "platform": "", "destination": TAG,
    }  # fmt: skip
    assert name in site.run("ls").stdout
    assert "read True" in site.run("logs", name).stdout
    (tmp_path / "go").touch()
    followed = site.run("logs", "--follow", name)
    assert followed.returncode == 5 and "end" in followed.stderr
    assert "failed" in site.run("ls").stdout
    assert site.run("cancel", name).returncode == 0
    assert site.cluster.objects["jobs"] == {}
    gone = site.run("cancel", name)
    assert gone.returncode == 1 and "error[build-unknown]" in gone.stderr


# --- secret, render, doctor -------------------------------------------------------------------

PASSWORD = "pass-word-of-a-test"


def _config(site: Site, name: str = "dockercred") -> dict[str, Any]:
    secret = site.cluster.objects["secrets"][name]
    kubernetes_validate.validate(_as_sent(secret), "1.34", strict=True)
    assert secret["type"] == "kubernetes.io/dockerconfigjson"
    found: dict[str, Any] = json.loads(base64.b64decode(secret["data"][".dockerconfigjson"]))
    return found


@pytest.mark.parametrize("way", ["stdin", "file", "env"])
def test_a_secret_from_credentials(site: Site, tmp_path: Path, way: str) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    words, stdin, env = {
        "stdin": (["--password-stdin"], f"{PASSWORD}\n", {}),
        "file": ([f"--password-file={tmp_path / 'password'}"], "", {}),
        "env": (["--password-env=P"], "", {"P": PASSWORD}),
    }[way]
    done = site.run("secret", "--server=r.example.com", "--username=me", *words,
                    stdin=stdin, env=env)  # fmt: skip
    assert done.returncode == 0, done.stderr
    auth = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
    entry = {"username": "me", "password": PASSWORD, "auth": auth}
    assert _config(site) == {"auths": {"r.example.com": entry}}
    assert PASSWORD not in done.stdout + done.stderr


def test_a_secret_from_a_config_and_one_in_the_way(site: Site, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"auths": {"a": {"auth": "eDp5"}, "b": {}}, "credsStore": "desktop"})
    )
    assert site.run("secret", "mine", "--from-config=config.json").returncode == 0
    assert _config(site, "mine") == {"auths": {"a": {"auth": "eDp5"}}}
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"a": {"auth": "bmV3Onk="}}}))
    assert site.run("secret", "mine", "--from-config=config.json").returncode == 0
    assert _config(site, "mine")["auths"]["a"]["auth"] == "bmV3Onk="
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"b": {}}, "credsStore": "desktop"}))
    done = site.run("secret", "--from-config=config.json")
    assert (
        "error[credentials-unusable]" in done.stderr and "docker-credential-desktop" in done.stderr
    )
    site.cluster.objects["secrets"]["mine"]["type"] = "Opaque"
    done = site.run("secret", "mine", "--username=me", "--password-stdin", stdin=PASSWORD)
    assert done.returncode == 1 and "error[secret-in-the-way]" in done.stderr
    done = site.run("secret", "--username=me", "--password=x")
    assert "error[unknown-option]" in done.stderr, "no password in argv"


def test_doctor_probes_pods_until_it_knows(site: Site) -> None:
    answers = {
        "runtime-default": {"taken": "takeover"},
        "user-namespace": {"taken": ""},
        "restricted": {"taken": "rootless"},
    }

    def script(pod: Pod) -> None:
        assert pod.spec["containers"][0]["args"] == ["doctor", "--log-format=json"]
        rung = next(name for name in answers if name in pod.name)
        pod.run()
        found = {"isolations": [{"name": "namespace", "works": False, "reason": "refused"}]}
        pod.write(json.dumps(answers[rung] | found))
        pod.end(0)

    site.plays(lambda pod: script)
    site.cluster.refuse_pods = lambda pod: (
        None if any(name in pod["metadata"]["name"] for name in answers) else POD_SECURITY
    )
    done = site.run("doctor", "--image=r.example.com/pybuild")
    assert done.returncode == 0, done.stderr
    assert "takeover  <- --rung=runtime-default" in done.stdout, done.stdout
    assert "enforces Pod Security" in done.stdout and "rootless" in done.stdout
    for pod in site.cluster.created:
        kubernetes_validate.validate(_as_sent(pod), "1.34", strict=True)
        assert "dockercred" not in json.dumps(pod)
    assert site.cluster.objects["pods"] == {}
    lines = site.run("doctor", "--log-format=json", "--rung=restricted").stdout.splitlines()
    (line,) = map(json.loads, lines)
    assert (line["rung"], line["isolation"]) == ("restricted", "rootless")


def test_what_is_created_goes_through_the_clients_models_unchanged(site: Site) -> None:
    site.run("run", GIT, f"--tag={TAG}", "--platform=linux/arm64", "--mount-secret=npm",
             "--pull-secret=p", "--service-account=s", "--deadline=2h")  # fmt: skip
    site.run("secret", "--username=me", "--password-stdin", stdin=PASSWORD)
    (job, secret) = map(_as_sent, site.cluster.created)
    assert job["spec"]["activeDeadlineSeconds"] == 7200
    assert "imagePullSecrets" in job["spec"]["template"]["spec"]
    for item, model in ((job, "V1Job"), (secret, "V1Secret")):
        assert round_trip(item, model) == item


def round_trip(item: dict[str, Any], model: str) -> Any:
    class Answer:
        data = json.dumps(item)

    api = client.ApiClient()
    try:
        value = api.deserialize(Answer(), model)
    except (AttributeError, TypeError):
        value = api.deserialize(json.dumps(item), model, "application/json")
    return api.sanitize_for_serialization(value)

"""What pod-check finds: each case is a manifest in which `#! code` marks the lines to be found."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from textwrap import indent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybuild.k8s import document, rules
from pybuild.k8s.check import check_files
from pybuild.k8s.rules import Severity
from pybuild.k8s.values import quantity

IMAGE = "image: registry.example.com/pybuild/executor:1.0"
RESOURCES = "resources: {requests: {memory: 1Gi}, limits: {memory: 2Gi}}"
ROOT = "securityContext: {runAsUser: 0}"
IDLE = "command: [sleep]\nargs: [99d]"


def job(
    container: str = "", spec: str = "", *, image: str = IMAGE, resources: str = RESOURCES,
    security: str = ROOT,
) -> str:  # fmt: skip
    """A Job whose builder's container and Pod have these lines more."""
    inner = "\n".join(("- name: kaniko", *_under(image, resources, security, container)))
    lines = ["restartPolicy: Never", spec, "containers:", inner]
    text = "\n".join(line for line in lines if line)
    head = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: build}\nspec:\n  template:\n    spec:"
    return f"{head}\n{indent(text, ' ' * 6)}\n"


def agent(*containers: str, spec: str = "") -> str:
    """A Pod of Jenkins' with these containers beside the agent's."""
    text = "\n".join((spec, "containers:", "- name: jnlp", *containers))
    return f"apiVersion: v1\nkind: Pod\nspec:\n{indent(text, '  ')}\n"


def container(name: str, *lines: str) -> str:
    return "\n".join((f"- name: {name}", *_under(*lines)))


def _under(*texts: str) -> list[str]:
    return [indent(text, "  ") for text in texts if text]


def volumes(mounts: str, *sources: str) -> tuple[str, str]:
    """The lines of a container, and of the Pod."""
    return f"volumeMounts:\n{mounts}", "volumes:\n" + "\n".join(sources)


DOCKERCRED = """\
- name: dockercred
  secret:
    secretName: dockercred
    items: [{key: .dockerconfigjson, path: config.json}]"""

VALUES = {
    "no-quantity": job(resources="""\
resources:
  requests:
    cpu: half  #! bad-quantity
    memory: 1GB  #! bad-quantity
    ephemeral-storage: -4Gi  #! bad-quantity
  limits: {memory: 2Gi}"""),
    "every kind of quantity": job(resources="""\
resources:
  requests: {cpu: 0.5, memory: 1e9, ephemeral-storage: 4Gi, example.com/gpu: 1}
  limits: {cpu: "2", memory: 1073741824, hugepages-2Mi: 4Mi}"""),
    "bytes, thousandths, many cores": job(resources="""\
resources:
  requests:
    memory: 512m  #! odd-quantity
  limits:
    memory: 512  #! odd-quantity
    cpu: 500  #! odd-quantity"""),
    "a resource that is none": job(resources="""\
resources:
  limits:
    memory: 2Gi
    mem: 2Gi  #! unknown-resource"""),
    "more than the limit": job(resources="""\
resources:
  requests:
    memory: 3Gi  #! request-over-limit
    cpu: 500m
  limits: {memory: 2048Mi, cpu: 0.5}"""),
    "an emptyDir's size": job(
        "volumeMounts: [{name: a, mountPath: /a}]",
        "volumes:\n- name: a\n  emptyDir:\n    sizeLimit: much  #! bad-quantity\n"
        "    medium: memory  #! bad-value",
    ),
    "a claim's size": """\
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: cache}
spec:
  accessModes:
  - ReadWriteTwice  #! bad-value
  resources:
    requests:
      storage: 50GiB  #! bad-quantity
""",
    "words": job(
        "imagePullPolicy: ifNotPresent  #! bad-value",
        "dnsPolicy: Cluster  #! bad-value\n"
        "tolerations:\n- {key: a, operator: Exist}  #! bad-value",
        security="securityContext:\n  runAsUser: 0\n  seccompProfile:\n"
        "    type: runtime/default  #! bad-value",
    ),
    "capabilities": job(security="""\
securityContext:
  runAsUser: 0
  capabilities:
    drop: [ALL]
    add:
    - CHOWN
    - CAP_FOWNER  #! bad-value
    - SETGUID  #! bad-value"""),
    "a Job that restarts": job().replace(
        "restartPolicy: Never", "restartPolicy: Always  #! bad-value"
    ),
    "a Job that says nothing": job().replace("restartPolicy: Never", "").replace(
        "    spec:\n", "    spec:  #! bad-value\n"
    ),
    "names": job().replace("name: build}", "name: build_app}  #! bad-name").replace(
        "name: kaniko", "name: Kaniko  #! bad-name"
    ),
    "labels": job().replace(
        "metadata: {name: build}",
        "metadata:\n  generateName: build-\n  labels:\n    team: a team  #! bad-name",
    ),
    "names that stand twice": job(
        "env:\n- {name: A, value: '1'}\n- {name: A, value: '2'}  #! duplicate-name",
        "initContainers:\n- name: first\n  image: r.example.com/x:1\n",
    ).replace("- name: kaniko", "- name: first  #! duplicate-name"),
    "a value from two places": job(
        "env:\n- name: A  #! one-of\n  value: x\n"
        "  valueFrom: {fieldRef: {fieldPath: metadata.name}}"
    ),
    "images": job(image="image: registry.example.com/Team/App:1.0  #! bad-image"),
    "a key twice": job().replace("restartPolicy: Never",
                                 "restartPolicy: Never\n"
                                 "      restartPolicy: Never  #! duplicate-key"),
    "a merge is no key twice": job(
        "env: &env\n- {name: A, value: x}", "securityContext: {<<: {fsGroup: 1}, fsGroup: 2}"
    ),
    "no YAML": "a: [1\nb: 2  #! yaml-syntax\n",
    "no YAML: a tag": "a: !!python/object:os.system x  #! yaml-syntax\n",
    "two documents": job() + "---\n" + job("imagePullPolicy: Sometimes  #! bad-value"),
    "a List": "apiVersion: v1\nkind: List\nitems:\n- "
    + indent(job("imagePullPolicy: Sometimes  #! bad-value"), "  ").lstrip(),
}  # fmt: skip

REFERENCES = {
    "a mount without a volume": job(
        *volumes("- {name: cache, mountPath: /cache}  #! no-such-volume",
                 "- {name: c, emptyDir: {}}  #! unused-volume")
    ),
    "a volume without a source": job(
        *volumes("- {name: a, mountPath: /a}", "- name: a  #! one-of")
    ),
    "a volume with two sources": job(
        *volumes("- {name: a, mountPath: /a}",
                 "- name: a  #! one-of\n  emptyDir: {}\n  configMap: {name: b}")
    ),
    "two mounts at one path": job(
        *volumes("- {name: a, mountPath: /a}\n- {name: b, mountPath: /a/}  #! duplicate-mount",
                 "- {name: a, emptyDir: {}}\n- {name: b, emptyDir: {}}")
    ),
    "paths": job(
        *volumes("- {name: a, mountPath: data}  #! bad-path\n"
                 "- {name: a, mountPath: '/x:y'}  #! bad-path\n"
                 "- {name: a, mountPath: /z, subPath: ../b}  #! bad-path",
                 "- name: a\n  secret:\n    secretName: s\n    items:\n"
                 "    - {key: k, path: /etc/k}  #! bad-path")
    ),
    "a Secret without the key": """\
apiVersion: v1
kind: Secret
metadata: {name: dockercred}
stringData: {config.json: '{}'}
---
""" + job(*volumes("- {name: dockercred, mountPath: /kaniko/.docker}",
                   DOCKERCRED.replace("secret:", "secret:  #! no-such-key"))),
    "a variable from a key that is not there": """\
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {b: x}
---
""" + job("env:\n- name: A\n  valueFrom:\n"
          "    configMapKeyRef: {name: settings, key: a}  #! no-such-key"),
    "a Secret that holds no credentials": """\
apiVersion: v1
kind: Secret
metadata: {name: a}
type: kubernetes.io/dockerconfigjson
data:
  .dockerconfigjson: e30=  #! bad-secret
  other: not base64!  #! bad-secret
""",
    "a Secret without its key": """\
apiVersion: v1
kind: Secret
metadata: {name: a}
type: kubernetes.io/dockerconfigjson  #! bad-secret
stringData: {config.json: '{"auths": {}}'}
""",
    "variables in words": job(
        "env:\n- {name: TAG, value: '1'}\n- {name: B, value: $(LATER)}  #! undefined-variable\n"
        "- {name: LATER, value: $(TAG)}\n"
        "args:\n- --destination=r.example.com/app:$(TAG)\n"
        "- --build-arg=N=$(NUMBER)  #! undefined-variable\n- --label=a=$$(NUMBER)"
    ),
    "variables from elsewhere": job(
        "envFrom: [{configMapRef: {name: settings}}]\nargs: ['--destination=$(IMAGE)']"
    ),
}  # fmt: skip

BUILDER = {
    "credentials": job(*volumes("- {name: dockercred, mountPath: /kaniko/.docker}", DOCKERCRED)),
    "credentials where DOCKER_CONFIG says": job(
        "env: [{name: DOCKER_CONFIG, value: /secret/}]\n"
        + volumes("- {name: dockercred, mountPath: /secret}", DOCKERCRED)[0],
        volumes("", DOCKERCRED)[1],
    ),
    "credentials under another name": job(
        *volumes("- {name: dockercred, mountPath: /kaniko/.docker}  #! no-config-json",
                 DOCKERCRED.replace("config.json}", "docker.json}"))
    ),
    "credentials under the Secret's own name": job(
        *volumes("- {name: d, mountPath: /kaniko/.docker}  #! config-key",
                 "- {name: d, secret: {secretName: dockercred}}")
    ),
    "a folder called config.json": job(
        *volumes("- {name: dockercred, mountPath: /kaniko/.docker/config.json}  #! no-config-json",
                 DOCKERCRED)
    ),
    "the file alone": job(
        *volumes("- {name: d, mountPath: /kaniko/.docker/config.json, subPath: .dockerconfigjson}",
                 "- {name: d, secret: {secretName: dockercred}}")
    ),
    "credentials for another user's home": job(
        *volumes("- {name: dockercred, mountPath: /root/.docker}  #! credentials-elsewhere",
                 DOCKERCRED)
    ),
    "DOCKER_CONFIG without a mount": job(
        "env:\n- {name: DOCKER_CONFIG, value: /secret}  #! credentials-elsewhere"
    ),
    "from a ConfigMap, as kaniko's documents have it": job(
        *volumes("- {name: d, mountPath: /kaniko/.docker}",
                 "- {name: d, configMap: {name: docker-config}}")
    ),
    "projected": job(
        *volumes("- {name: d, mountPath: /kaniko/.docker}", """\
- name: d
  projected:
    sources:
    - secret: {name: dockercred, items: [{key: .dockerconfigjson, path: config.json}]}""")
    ),
    "projected under another name": job(
        *volumes("- {name: d, mountPath: /kaniko/.docker}  #! no-config-json", """\
- name: d
  projected:
    sources:
    - secret: {name: dockercred, items: [{key: .dockerconfigjson, path: x}]}""")
    ),
    "a secret's value": job("env:\n- {name: REGISTRY_PASSWORD, value: s3cret}  #! secret-in-env"),
    "what hides the builder": job(
        *volumes("- {name: a, mountPath: /kaniko}  #! mount-shadows\n"
                 "- {name: a, mountPath: /busybox/}  #! mount-shadows\n"
                 "- {name: a, mountPath: /usr}  #! mount-in-image\n"
                 "- {name: a, mountPath: /kaniko/work}\n- {name: a, mountPath: /workspace}",
                 "- {name: a, emptyDir: {}}")
    ),
    "no place to work": job(
        security="securityContext:\n  runAsUser: 0\n"
        "  readOnlyRootFilesystem: true  #! nothing-writable"
    ),
    "a place to work": job(
        "env: [{name: KANIKO_DIR, value: /kaniko/work}]\n"
        "volumeMounts: [{name: a, mountPath: /kaniko/work}]",
        "volumes: [{name: a, emptyDir: {}}]",
        security="securityContext: {runAsUser: 0, readOnlyRootFilesystem: true}",
    ),
    "a place to work that is read-only": job(
        "env: [{name: KANIKO_DIR, value: /data/work}]\nvolumeMounts:\n"
        "- {name: a, mountPath: /data, readOnly: true}  #! nothing-writable",
        "volumes: [{name: a, emptyDir: {}}]",
    ),
    "a flag and its value in one word": job(
        "args:\n- --registry-certificate r.example.com=/ca.crt  #! blank-in-argument\n"
        "- --build-arg=A=b c\n- --context=."
    ),
    "another machine's image": job(
        "args:\n- --custom-platform=linux/arm64/v8  #! foreign-platform",
        "nodeSelector: {kubernetes.io/arch: amd64}",
    ),
    "this machine's image": job(
        "args: [--customPlatform=linux/arm64]", "nodeSelector: {kubernetes.io/arch: arm64}"
    ),
    "which user": job(security="").replace("- name: kaniko", "- name: kaniko  #! no-user"),
    "root that must not be": job(
        security="securityContext: {runAsNonRoot: true}  #! root-refused"
    ),
    "root that must not be, said twice": job(
        spec="securityContext:\n  runAsNonRoot: true",
        security="securityContext:\n  runAsUser: 0  #! root-refused",
    ),
    "rootless": job(image="image: registry.example.com/pybuild/executor:1.0-rootless",
                    security="securityContext: {runAsNonRoot: true}"),
    "a builder that changes": job(image="image: gcr.io/kaniko-project/executor  #! floating-image"),
    "latest": job(image="image: r.example.com:5000/pybuild:latest  #! floating-image"),
    "pinned": job(image=f"image: r.example.com/pybuild@sha256:{'0' * 64}"),
    "no memory": job(resources="").replace("- name: kaniko",
                                           "- name: kaniko  #! no-memory no-memory"),
    "no limit": job(resources="resources: {requests: {memory: 1Gi}}").replace(
        "- name: kaniko", "- name: kaniko  #! no-memory"),
    "privilege": job(
        *volumes("- {name: a, mountPath: /var/run/docker.sock}",
                 "- {name: a, hostPath: {path: /var/run/docker.sock}}  #! daemon-socket"),
        security="securityContext:\n  runAsUser: 0\n  privileged: true  #! privileged",
    ),
    "a Pod that builds for ever": job().replace("batch/v1", "v1").replace("kind: Job", "kind: Pod")
    .replace("  template:\n    spec:", "").replace("\n      ", "\n  ")
    .replace("restartPolicy: Never", "restartPolicy: Always  #! build-restarts")
    .replace("spec:\n\n", "spec:\n"),
    "what can't be had together": job(
        spec="hostUsers: false\nhostNetwork: true  #! contradiction",
        security="securityContext:\n  runAsUser: 0\n  seccompProfile:  #! contradiction\n"
        "    type: Localhost",
    ),
    "somebody else's container": job(image="image: r.example.com/app:1.0", resources="",
                                     security="").replace("name: kaniko", "name: app"),
}  # fmt: skip

AGENTS = {
    "right": agent(container("kaniko", IMAGE, IDLE, RESOURCES, ROOT),
                   container("maven", "image: maven:3.9", IDLE)),
    "by pybuild idle": agent(
        container("kaniko", IMAGE, "command: [/kaniko/pybuild, idle]", RESOURCES, ROOT)
    ),
    "without a kind": agent(
        container("kaniko", IMAGE, "command: [/busybox/cat]  #! container-ends", RESOURCES, ROOT)
    ).replace("apiVersion: v1\nkind: Pod\n", ""),
    "by cat on a terminal": agent(
        container("kaniko", IMAGE, "command: [/busybox/cat]", "tty: true", RESOURCES, ROOT)
    ),
    "by cat without one": agent(
        container("kaniko", IMAGE, "command: [/busybox/cat]  #! container-ends", RESOURCES, ROOT)
    ),
    "by its image": agent(
        container("kaniko  #! container-ends", IMAGE, RESOURCES, ROOT)
    ),
    "by a build": agent(
        container("kaniko", IMAGE, "command: [/kaniko/executor]  #! container-ends", RESOURCES,
                  ROOT)
    ),
    "by a sleep of no time": agent(
        container("maven", "image: maven:3.9", "command: [sleep]  #! container-ends")
    ),
    "an agent that sleeps": agent(container("a", "image: a.example.com/b:1", IDLE)).replace(
        "- name: jnlp", "- name: jnlp\n    command: [sleep, 99d]  #! agent-command"
    ),
    "an agent that is no container": agent(
        container("a", "image: a.example.com/b:1", IDLE),
        spec="initContainers:\n- name: jnlp  #! agent-command\n  image: a.example.com/b:1",
    ).replace("  - name: jnlp\n  - name: a", "  - name: a"),
    "two agents": agent(
        container("agent  #! second-agent", "image: jenkins/inbound-agent:latest-jdk21")
    ),
    "the workspace somewhere else": agent(
        container("kaniko", IMAGE, IDLE, RESOURCES, ROOT,
                  "workingDir: /workspace  #! working-dir-differs")
    ),
    "the workspace where the agent has it": agent(
        container("kaniko", IMAGE, IDLE, RESOURCES, ROOT, "workingDir: /ws")
    ).replace("- name: jnlp", "- name: jnlp\n    workingDir: /ws"),
    "the plugin's own volume": agent(
        container("kaniko", IMAGE, IDLE, RESOURCES, ROOT,
                  "volumeMounts: [{name: workspace-volume, mountPath: /ws}]")
    ),
    "no shell: slim": agent(
        container("kaniko", "image: r.example.com/pybuild/executor:slim  #! no-shell", IDLE,
                  RESOURCES, ROOT)
    ),
    "no shell: kaniko's": agent(
        container("kaniko", "image: gcr.io/kaniko-project/executor:v1.24.0  #! no-shell", IDLE,
                  RESOURCES, ROOT)
    ),
    "no such shell": agent(
        container("kaniko", IMAGE, "command: [/bin/bash, -c, sleep 99d]  #! no-shell", RESOURCES,
                  ROOT)
    ),
}  # fmt: skip

CASES = {**VALUES, **REFERENCES, **BUILDER, **AGENTS}


def marked(text: str) -> list[tuple[int, str]]:
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        match = re.search(r"#! ([a-z -]+)$", line)
        found += [(number, code) for code in match[1].split()] if match else []
    return found


def found_in(text: str, level: str = "") -> list[tuple[int, str]]:
    findings = check_files({"pod.yaml": text}, level)
    return sorted(
        (one.line, one.rule.code) for one in findings if one.rule.severity is not Severity.NOTE
    )


@pytest.mark.parametrize("name", CASES)
def test_it_finds_what_is_marked_and_nothing_else(name: str) -> None:
    assert found_in(CASES[name]) == sorted(marked(CASES[name]))


def test_every_rule_has_a_case() -> None:
    covered = {code for text in CASES.values() for _, code in marked(text)}
    elsewhere = {rules.POD_SECURITY, rules.NO_POD, *rules.TEKTON, *notes()}
    assert {rule.code for rule in rules.RULES} == covered | {rule.code for rule in elsewhere}


def notes() -> list[rules.Rule]:
    return [rule for rule in rules.RULES if rule.severity is Severity.NOTE]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            job("env:\n- name: A\n  valueFrom: {secretKeyRef: {name: s, key: k, optional: true}}"),
            "it needs the Secret s with k, if it is there",
            id="secret",
        ),
        pytest.param(job(spec="runtimeClassName: kata"), "it needs the RuntimeClass kata",
                     id="runtime class"),
        pytest.param(
            job("volumeMounts: [{name: a, mountPath: /a}]",
                "volumes: [{name: a, persistentVolumeClaim: {claimName: cache}}]"),
            "it needs the PersistentVolumeClaim cache", id="claim",
        ),
        pytest.param(
            agent(container("kaniko", IMAGE, IDLE, RESOURCES, ROOT),
                  spec="hostUsers: false\nsecurityContext: {fsGroup: 1000, runAsUser: 0}"),
            "as the child of another template, merge() would drop hostUsers,"
            " securityContext.fsGroup", id="merge",
        ),
        pytest.param("apiVersion: tekton.dev/v1beta1\nkind: StepAction\n",
                     "a StepAction is not looked into", id="other kind"),
    ],
)  # fmt: skip
def test_notes(text: str, message: str) -> None:
    findings = check_files({"pod.yaml": text})
    assert [one.message for one in findings if one.rule.severity is Severity.NOTE] == [message]


def test_what_another_file_has_is_not_needed() -> None:
    secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: v}\n"
    use = job("env:\n- name: A\n  valueFrom: {secretKeyRef: {name: s, key: k}}")
    assert len(check_files({"pod.yaml": use})) == 1
    assert check_files({"pod.yaml": use, "secret.yaml": secret}) == []


def test_every_error_of_ours_has_a_hint_or_says_it_all() -> None:
    without = {
        one.rule.code
        for text in CASES.values()
        for one in check_files({"pod.yaml": text})
        if one.rule.severity is Severity.ERROR and not one.hint
    }
    assert without <= {"yaml-syntax", "bad-secret", "one-of", "contradiction", "bad-name"}


def test_a_file_without_an_object() -> None:
    (found,) = check_files({"empty.yaml": "# nothing\n---\n"})
    assert (found.rule, found.line) == (rules.NO_POD, 0)


@pytest.mark.parametrize(
    ("cores", "hint"),
    [
        ("500", "500m is thousandths of a core"),
        ("1Gi", "cores have no unit: 2, or 500m for half"),
    ],
)
def test_the_hint_for_too_many_cores_is_a_quantity(cores: str, hint: str) -> None:
    text = job(resources=f"resources: {{limits: {{memory: 2Gi, cpu: {cores}}}}}")
    assert hint in [one.hint for one in check_files({"pod.yaml": text})]


# --- Pod Security -----------------------------------------------------------------------------

SAFE = "securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}"
SAFE_POD = (
    "securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}"
)


@pytest.mark.parametrize(
    ("level", "text", "refused"),
    [
        pytest.param("restricted", job(spec=SAFE_POD, security=SAFE), 0, id="restricted"),
        pytest.param("restricted", job(), 5, id="restricted, default"),
        pytest.param("baseline", job(), 0, id="baseline, default"),
        pytest.param("baseline", job(spec="hostNetwork: true"), 1, id="host network"),
        pytest.param("privileged", job(spec="hostNetwork: true"), 0, id="privileged"),
        pytest.param(
            "baseline",
            job(security="securityContext: {capabilities: {add: [SYS_ADMIN, CHOWN]}}"),
            1, id="capability",
        ),
        pytest.param(
            "baseline",
            job("volumeMounts: [{name: a, mountPath: /a}]",
                "volumes: [{name: a, hostPath: {path: /a}}]"),
            1, id="hostPath",
        ),
        pytest.param(
            "baseline", job(spec="securityContext: {seccompProfile: {type: Unconfined}}"), 1,
            id="unconfined",
        ),
        pytest.param(
            "restricted",
            job("volumeMounts: [{name: a, mountPath: /a}]",
                SAFE_POD + "\nvolumes: [{name: a, nfs: {path: /a, server: b}}]", security=SAFE),
            1, id="kind of volume",
        ),
        pytest.param(
            "restricted",
            job(spec=SAFE_POD.replace("RuntimeDefault", "Unconfined"), security=SAFE), 1,
            id="unconfined, restricted",
        ),
    ],
)  # fmt: skip
def test_levels_of_pod_security(level: str, text: str, refused: int) -> None:
    found = [code for _, code in found_in(text, level) if code == "pod-security"]
    assert len(found) == refused


# --- laws -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", "1"), ("500m", "0.5"), ("2Gi", str(2**31)), ("2G", "2000000000"), ("1e3", "1000"),
        ("1E3", "1000"), ("1E", "1e18"), (".5", "0.5"), ("1.", "1"), (0.25, "0.25"), ("+1", "1"),
        ("-1", "-1"), ("100n", "1e-7"),
    ],
)  # fmt: skip
def test_quantities(text: object, value: str) -> None:
    assert quantity(text) == Decimal(value)


@pytest.mark.parametrize(
    "text", ["", "Gi", "1 Gi", "1KB", "1gi", "1K", "half", True, None, [], "1e999"]
)
def test_no_quantities(text: object) -> None:
    assert quantity(text) is None


@given(st.text(max_size=200))
def test_any_text_is_checked_without_a_crash(text: str) -> None:
    for found in check_files({"pod.yaml": text}, "restricted"):
        assert found.file == "pod.yaml" and found.message


shapes = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(set(re.findall(r"[A-Za-z]+(?=:)", "".join(CASES.values()))))), shapes)
def test_any_value_in_any_place_is_checked_without_a_crash(key: str, value: object) -> None:
    """Every field of the cases gets a value of another shape."""
    import yaml

    def put(node: object) -> object:
        if isinstance(node, dict):
            return {name: value if name == key else put(inner) for name, inner in node.items()}
        return [put(item) for item in node] if isinstance(node, list) else node

    whole = [BUILDER["credentials"], BUILDER["privilege"], AGENTS["right"], VALUES["words"]]
    text = yaml.safe_dump_all([put(one) for one in yaml.safe_load_all("---\n".join(whole))])
    check_files({"pod.yaml": text}, "restricted")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a: &a [*a]\n", id="in itself"),
        pytest.param(
            "a0: &a0 [x]\n" + "".join(
                f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
            ),
            id="a billion",
        ),
        pytest.param("[" * 5_000, id="deep"),
        pytest.param(f"[{'1,' * 2000}]", id="long"),
    ],
)  # fmt: skip
def test_a_file_made_to_do_harm(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "MOST_NODES", 1000)
    assert [code for _, code in found_in(text)] == ["yaml-syntax"]


def test_the_page_lists_every_code() -> None:
    page = (Path(__file__).parents[3] / "docs/kubernetes.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (error|warning|note) \|", page, re.M))
    assert rows == {rule.code: rule.severity.value for rule in rules.RULES}

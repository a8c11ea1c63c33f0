"""Tekton's objects in pod-check: each case is a manifest in which `#! code` marks what is found."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pybuild.k8s import rules, tekton_schema
from pybuild.k8s.check import check_files
from pybuild.k8s.document import Document
from pybuild.k8s.rules import Severity
from pybuild.k8s.tekton_schema import check_shape, schema_of

TEMPLATES = Path(__file__).resolve().parents[3] / "pod-templates"
FILES = {path.stem: path.read_text() for path in sorted((TEMPLATES / "tekton").glob("*.yaml"))}
HEAD = "apiVersion: tekton.dev/v1\nkind: {kind}\nmetadata: {{name: a}}\nspec:\n"


def of(kind: str, spec: str) -> str:
    lines = "\n".join(f"  {line}" if line else "" for line in spec.strip("\n").split("\n"))
    return f"{HEAD.format(kind=kind)}{lines}\n"


STEPS = "steps: [{name: a, image: 'a:1'}]"
TASK_CASES = {
    "what v1 has no more": """\
resources: {inputs: []}  #! unknown-field
steps:
- name: a
  image: a:1
  resources: {}  #! unknown-field
  wrokingDir: /a  #! unknown-field
""",
    "types": """\
params:
- {name: A, default: 1}  #! wrong-type
- {name: B, type: array, default: one}  #! wrong-type
- {name: C, type: list}  #! bad-value
- {name: D, default: [a]}
steps:
- name: a
  image: a:1
  args: "$(params.A)"  #! wrong-type
  env:
  - {name: A, value: true}  #! wrong-type
  onError: go-on  #! bad-value
  timeout: 1 hour  #! bad-value
""",
    "no steps": "steps: []  #! missing-field\n",
    "nothing to run": "steps:\n- name: a  #! one-of\n",
    "script and command": """\
steps:
- name: a
  image: a:1
  command: [a]  #! one-of
  script: a
""",
    "names": """\
params:
- {name: A, default: a}
- {name: A, default: b}  #! duplicate-name
- {name: 1A, default: b}  #! bad-name
results: [{name: R}]
workspaces: [{name: w}]
steps:
- {name: a, image: a:1}
- {name: a, image: a:1}  #! duplicate-name
- {name: A_B, image: a:1}  #! bad-name
""",
    "no name": "params: [{default: a}]  #! missing-field\n" + STEPS,
    "parameters": """\
params:
- {name: IMAGE}
- {name: ARGS, type: array}
- {name: a.b}
- {name: O, type: object, properties: {k: {type: string}}}
steps:
- name: a
  image: a:1
  args:
  - $(params.IMAGE) $(params["IMAGE"]) $(params['IMAGE']) $(inputs.params.IMAGE)
  - $(params.IMGAE)  #! undeclared
  - $(params.IMAGE[*])  #! wrong-type
  - $(params.ARGS[*])
  - $(params.ARGS)
  - $(params["ARGS"][*])
  - $(params.ARGS[0])
  - --x=$(params.ARGS[*])  #! array-in-text
  - $(params["a.b"])
  - $(params.a.b)  #! undeclared
  - $(params.O.k)
  - --x=$(params.O)  #! undeclared
  - $(param.IMAGE)  #! undeclared
  - $(parms.IMAGE)  #! undeclared
  env:
  - {name: A, value: "$(params.ARGS[*])"}  #! array-in-text
""",
    "workspaces and results": """\
workspaces: [{name: source}]
results: [{name: DIGEST}]
steps:
- name: a
  image: a:1
  workingDir: $(workspaces.source.path)
  args:
  - $(workspaces.source.bound) $(workspaces.source.claim)
  - $(workspaces.sources.path)  #! undeclared
  - $(workspaces.source)  #! undeclared
  - $(workspaces.source.paht)  #! undeclared
  - $(workspace.source.path)  #! undeclared
  - $(results.DIGEST.path)
  - $(results.DIGSET.path)  #! undeclared
  - $(results.DIGEST)  #! undeclared
  - $(result.DIGEST.path)  #! undeclared
  - $(steps.a.exitCode.path) $(steps.step-a.results.x)
  - $(steps.b.exitCode.path)  #! undeclared
  - $(context.taskRun.name) $(context.pipelineRun.uid) $(credentials.path)
  - $(context.taskrun.name)  #! undeclared
  - $(credentials.token)  #! undeclared
  - $(tasks.a.results.b)  #! undeclared
""",
    "what is no variable of Tekton's": """\
steps:
- name: a
  image: a:1
  env: [{name: A, value: a}]
  args: ["$(A)"]
  script: |
    #!/bin/sh
    echo $(date) $(cat file.txt) $(basename.sh) "$(id -u)"
""",
    "a variable of the container": """\
steps:
- name: a
  image: a:1
  args:
  - $(NOT_THERE)  #! undefined-variable
""",
    "a parameter in a script": """\
params: [{name: A}]
steps:
- name: a
  image: a:1
  script: echo $(params.A)  #! script-injection
""",
    "volumes": """\
volumes: [{name: v, emptyDir: {}}, {name: w, emptyDir: {}, secret: {secretName: s}}]  #! one-of
steps:
- name: a
  image: a:1
  volumeMounts:
  - {name: v, mountPath: /v}
  - {name: w, mountPath: /w}
  - {name: x, mountPath: /x}  #! no-such-volume
  - {name: v, mountPath: /tekton/results}  #! bad-path
  - {name: v, mountPath: /tekton/home}
""",
    "the template of steps": """\
params: [{name: A}]
stepTemplate:
  image: a:1
  env: [{name: A, value: a}, {name: B, value: $(params.B)}]  #! undeclared
  computeResources: {requests: {memory: 2Gi}}
steps:
- name: a
  args: ["$(A)", "$(B)"]
  env: [{name: A, value: b}]
  computeResources:
    limits: {memory: 1GB}  #! bad-quantity
""",
    "a builder that lacks what builders need": """\
params: [{name: IMAGE, default: "registry.example.com/kaniko:latest"}]
steps:
- name: build  #! no-memory  #! no-memory  #! no-user
  image: $(params.IMAGE)  #! floating-image
  args:
  - --destination a  #! blank-in-argument
""",
    "a workspace over the builder": """\
workspaces:
- {name: source, mountPath: /kaniko}  #! mount-shadows
steps:
- name: build
  image: registry.example.com/pybuild/executor:1
  computeResources: {limits: {memory: 1Gi}}
  securityContext: {runAsUser: 0}
""",
}
PIPELINE_CASES = {
    "order": """\
tasks:
- name: a
  taskSpec: {steps: [{image: 'a:1'}]}
- name: b
  runAfter:
  - a
  - c  #! no-such-task
  taskSpec: {steps: [{image: 'a:1'}]}
- name: b  #! duplicate-name
  taskSpec: {steps: [{image: 'a:1'}]}
finally:
- name: z
  runAfter: [a]  #! contradiction
  taskSpec: {steps: [{image: 'a:1'}]}
""",
    "a circle": """\
tasks:  #! circle
- name: a
  runAfter: [b]
  taskSpec: {steps: [{image: 'a:1'}]}
- name: b
  params: [{name: A, value: $(tasks.a.results.r)}]
  taskSpec: {params: [{name: A}], results: [{name: r}], steps: [{image: 'a:1'}]}
- name: c
  runAfter: [a]
  taskSpec: {steps: [{image: 'a:1'}]}
""".replace("taskSpec: {steps", "taskSpec: {results: [{name: r}], steps"),
    "results": """\
tasks:
- name: a
  taskSpec: {results: [{name: r}], steps: [{image: 'a:1'}]}
- name: b
  params:
  - {name: A, value: $(tasks.a.results.r)}
  - {name: B, value: $(tasks.a.results.s)}  #! undeclared
  - {name: C, value: $(tasks.c.results.r)}  #! no-such-task
  - {name: D, value: $(results.r.path)}  #! undeclared
  - {name: E, value: $(tasks.a.result.r)}  #! undeclared
  taskRef: {name: elsewhere}
finally:
- name: z
  params: [{name: S, value: $(tasks.status) $(tasks.a.status) $(tasks.b.results.any)}]
  taskRef: {name: elsewhere}
results:
- {name: r, value: $(tasks.a.results.r) $(tasks.b.results.any)}
- {name: s, value: $(finally.z.results.any)}
- {name: t, value: $(finally.a.results.r)}  #! no-such-task
""",
    "what the Pipeline does not declare": """\
params: [{name: list, type: array}, {name: text}]
workspaces: [{name: source}]
tasks:
- name: a
  taskRef: {name: elsewhere}
  params:
  - name: A
    value: ["$(params.list[*])", "$(params.txet)"]  #! undeclared
  - {name: B, value: "$(params.list[*])"}
  - {name: C, value: "x $(params.list[*])"}  #! array-in-text
  - {name: D, value: $(workspaces.source.bound)}
  - {name: E, value: $(workspaces.source.path)}  #! undeclared
  workspaces:
  - {name: source}
  - {name: other}  #! undeclared
  - {name: third, workspace: sauce}  #! undeclared
""",
    "a Task inside has to declare what it uses": """\
params: [{name: text}]
tasks:
- name: a
  taskSpec:
    metadata: {labels: {a: b}}
    steps:
    - name: a
      image: a:1
      args: [$(params.text)]  #! undeclared
      resources: {}  #! unknown-field
""",
    "which Task": """\
tasks:
- name: a  #! one-of
- name: b  #! one-of
  taskRef: {name: a}
  taskSpec: {steps: [{image: 'a:1'}]}
- name: c
  timeout: soon  #! bad-value
  taskRef: {resolver: git, params: [{name: url, value: a}]}
""",
}
RUN_CASES = {
    "PipelineRun of v1beta1": """\
serviceAccountName: a  #! unknown-field
timeout: 1h  #! unknown-field
pipelineRef: {name: elsewhere}
""",
    "PipelineRun with all inside": """\
params: [{name: text, value: a}]
workspaces: [{name: source, emptyDir: {}}]
pipelineSpec:
  tasks:
  - name: a
    taskSpec:
      steps:
      - name: a
        image: a:1
        args: [$(params.text), $(workspaces.source.path)]
        env:
        - {name: A, value: $(params.txet)}  #! undeclared
timeouts: {pipeline: 1h30m, tasks: one hour}  #! bad-value
""",
    "TaskRun with workspaces": """\
taskRef: {name: elsewhere}
workspaces:
- {name: a}  #! one-of
- {name: b, emptyDir: {}, secret: {secretName: s}}  #! one-of
- name: c
  volumeClaimTemplate:
    spec:
      resources: {requests: {storage: lots}}  #! bad-quantity
""",
}
CASES = (
    {name: of("Task", text) for name, text in TASK_CASES.items()}
    | {name: of("Pipeline", text) for name, text in PIPELINE_CASES.items()}
    | {name: of(name.split(" ")[0], text) for name, text in RUN_CASES.items()}
    | {
        "of v1beta1": of(
            "Task",
            "steps:\n- image: a:1\n  resources: {}  #! old-version\n  rsource: a  #! unknown-field",
        ).replace("dev/v1", "dev/v1beta1  #! old-version"),
        "no Task": of("TaskRun", "timeout: 1h").replace("spec:", "spec:  #! one-of"),
        "no spec": "apiVersion: tekton.dev/v1  #! missing-field\nkind: Task\nmetadata: {name: a}\n",
    }
)


def marked(text: str) -> list[tuple[int, str]]:
    return sorted(
        (number, code)
        for number, line in enumerate(text.split("\n"), 1)
        for code in re.findall(r"#! ([a-z-]+)", line)
    )


def found_in(*texts: str, level: str = "") -> list[tuple[int, str]]:
    """Line and code of what is found, notes apart."""
    findings = check_files({f"{n}.yaml": text for n, text in enumerate(texts)}, level)
    return sorted((one.line, one.rule.code) for one in findings
                  if one.rule.severity is not Severity.NOTE)  # fmt: skip


@pytest.mark.parametrize("text", CASES.values(), ids=CASES)
def test_what_is_found(text: str) -> None:
    assert found_in(text) == marked(text)


# --- the files --------------------------------------------------------------------------------


def test_together_the_files_have_no_mistake_and_need_but_a_volume_with_the_source() -> None:
    beside = [(TEMPLATES / f"kubernetes/{name}.yaml").read_text()
              for name in ("dockercred", "cache-claim")]  # fmt: skip
    texts = dict(enumerate((*FILES.values(), *beside)))
    findings = check_files({str(n): text for n, text in texts.items()}, "baseline")
    assert {one.message for one in findings} == {"it needs the PersistentVolumeClaim source"}


@pytest.mark.parametrize("name", FILES)
def test_a_file_by_itself_has_no_mistake(name: str) -> None:
    level = "restricted" if "restricted" in name else "baseline"
    assert found_in(FILES[name], level=level) == []


@pytest.mark.parametrize("name", FILES)
def test_only_the_restricted_task_passes_restricted(name: str) -> None:
    codes = {code for _, code in found_in(FILES[name], level="restricted")}
    has_pod = name.endswith("-task") and "restricted" not in name
    assert codes == ({"pod-security"} if has_pod else set())


def test_the_restricted_task_is_the_other_but_for_the_user() -> None:
    one = yaml.safe_load(FILES["kaniko-task"])
    other = yaml.safe_load(FILES["kaniko-restricted-task"])
    for task in (one, other):
        del task["spec"]["steps"][0]["securityContext"]
        task["metadata"] = {}
        for param in task["spec"]["params"]:
            if param["name"] == "BUILDER_IMAGE":
                param.clear()
    assert one == other


def test_the_task_has_what_the_catalogs_has() -> None:
    spec = yaml.safe_load(FILES["kaniko-task"])["spec"]
    params = {one["name"]: one.get("default") for one in spec["params"]}
    assert params["DOCKERFILE"] == "./Dockerfile" and params["CONTEXT"] == "./"
    assert params["IMAGE"] is None and params["EXTRA_ARGS"] == []
    assert {"BUILDER_IMAGE", "WRITER_IMAGE", "KANIKO_DIR"} < set(params)
    spaces = {one["name"]: one for one in spec["workspaces"]}
    assert not spaces["source"].get("optional")
    assert spaces["dockerconfig"]["mountPath"] == "/kaniko/.docker"
    assert all(spaces[name]["optional"] for name in ("dockerconfig", "cache"))
    assert {"IMAGE_DIGEST", "IMAGE_URL"} < {one["name"] for one in spec["results"]}
    assert len(spec["steps"]) == 1 and "script" not in spec["steps"][0]


PLANTED = [
    ("kaniko-task", "$(params.EXTRA_ARGS[*])", "--x=$(params.EXTRA_ARGS[*])", "array-in-text"),
    ("kaniko-task", "$(params.IMAGE)", "$(params.image)", "undeclared"),
    ("kaniko-task", "$(results.IMAGE_URL.path)", "$(results.IMAGE-URL.path)", "undeclared"),
    ("kaniko-task", "$(workspaces.source.path)", "$(workspaces.src.path)", "undeclared"),
    ("kaniko-task", "computeResources", "resources", "unknown-field"),
    ("kaniko-task", "name: work, mountPath", "name: wrok, mountPath", "no-such-volume"),
    ("kaniko-task", "value: /kaniko/.docker", "value: /docker", "credentials-elsewhere"),
    ("kaniko-task", "memory: 2Gi", "memory: 2GB", "bad-quantity"),
    ("kaniko-task", "runAsUser: 0", "runAsUser: '0'", "wrong-type"),
    ("clone-task", "$(results.commit.path)", "$(results.comit.path)", "undeclared"),
    ("clone-task", '"$URL"', '"$(params.url)"', "script-injection"),
    ("maven-task", '["$(params.GOALS[*])"]', '["-B $(params.GOALS[*])"]', "array-in-text"),
    ("maven-task", "script: |", "command: [mvn]\n      script: |", "one-of"),
    ("pipeline", "runAfter: [clone]", "runAfter: [clnoe]", "no-such-task"),
    ("pipeline", "runAfter: [clone]", "runAfter: [build]", "circle"),
    ("pipeline", "results.commit)\"", "results.comit)\"", "undeclared"),
    ("pipeline", "tasks.build.results", "tasks.bulid.results", "no-such-task"),
    ("pipeline", "{name: IMAGE,", "{name: IMAGES,", "not-given"),
    ("pipeline", "{name: source, workspace: source}", "{name: src, workspace: source}",
     "not-given"),
    ("pipeline", "workspace: gitcred}", "workspace: gitcreds}", "undeclared"),
    ("pipeline", "- $(params.build-args[*])", "- $(params.build_args[*])", "undeclared"),
    ("pipelinerun", "- name: repository", "- name: repo", "not-given"),
    ("pipelinerun", "volumeClaimTemplate", "volumeClaimTemplates", "unknown-field"),
    ("pipelinerun", "timeouts:\n    pipeline:", "timeout:", "unknown-field"),
    ("kaniko-taskrun", "- name: dockerconfig", "- name: docker-config", "undeclared"),
    ("kaniko-taskrun", "key: .dockerconfigjson", "key: config.json", "no-such-key"),
    ("kaniko-taskrun", "name: kaniko\n", "name: kanico\n", ""),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "code"), PLANTED)
def test_a_planted_mistake_is_caught(name: str, old: str, new: str, code: str) -> None:
    assert old in FILES[name]
    texts = {**FILES, "secret": (TEMPLATES / "kubernetes/dockercred.yaml").read_text()}
    before = check_files(texts, "baseline")
    after = check_files({**texts, name: FILES[name].replace(old, new)}, "baseline")
    fresh = {one.rule.code for one in after} - {one.rule.code for one in before}
    if code:
        assert code in fresh
    else:  # a Task that may be in the cluster
        assert "it needs the Task kanico" in {one.message for one in after}


def test_a_misspelt_name_is_told_with_the_right_one() -> None:
    text = FILES["kaniko-task"].replace("$(params.IMAGE)", "$(params.IMAGES)")
    (found,) = check_files({"a.yaml": text}, "")
    assert found.message == "$(params.IMAGES) is not declared"
    assert found.hint == "did you mean IMAGE?"
    assert text.split("\n")[found.line - 1].strip() == "- --destination=$(params.IMAGES)"


# --- the schema -------------------------------------------------------------------------------


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Of every mapping and scalar."""
    yield path
    pairs = value.items() if isinstance(value, dict) else []
    for key, part in enumerate(value) if isinstance(value, list) else pairs:
        yield from places(part, (*path, key))


def shape_findings(value: Any, kind: str = "") -> list[str]:
    document = Document("a.yaml", value, {})
    return [one.rule.code for one in check_shape(document.root, schema_of(kind or value["kind"]))]


FREE = ("volumeClaimTemplate", "default", "value", "labels", "annotations", "requests", "limits")
"""Below these any key may stand."""


@pytest.mark.parametrize("name", FILES)
def test_the_schema_takes_the_file_and_finds_a_strange_field_anywhere(name: str) -> None:
    whole = yaml.safe_load(FILES[name])
    assert shape_findings(whole) == []
    for path in places(whole):
        planted = copy.deepcopy(whole)
        at: Any = planted
        for key in path:
            at = at[key]
        if isinstance(at, dict) and not set(FREE) & set(path):
            at["notThere"] = "x"
            assert shape_findings(planted) == ["unknown-field"], path


@pytest.mark.parametrize("name", FILES)
def test_the_schema_finds_a_value_of_another_shape_anywhere(name: str) -> None:
    whole = yaml.safe_load(FILES[name])
    for path in places(whole):
        if not path or set(FREE) & set(path[:-1]) or path[-1] == "default":
            continue
        planted = copy.deepcopy(whole)
        at: Any = planted
        for key in path[:-1]:
            at = at[key]
        old = at[path[-1]]
        at[path[-1]] = {"x": {"y": []}} if isinstance(old, list | str | int) else ["x"]
        assert shape_findings(planted, whole["kind"]) or path[-1] == "value", path


def test_every_kind_has_a_schema_and_knows_what_it_needs() -> None:
    for kind in tekton_schema.SPECS:
        codes = shape_findings({"apiVersion": "tekton.dev/v1", "kind": kind})
        assert codes == ["missing-field"] * 2


shapes = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("$(params.IMAGE[*])/- ", max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = sorted(set(re.findall(r"[A-Za-z]+(?=:)", "".join((*FILES.values(), *CASES.values())))))


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(KEYS), shapes)
def test_any_value_in_any_place_is_checked_without_a_crash(key: str, value: object) -> None:
    def put(node: object) -> object:
        if isinstance(node, dict):
            return {name: value if name == key else put(inner) for name, inner in node.items()}
        return [put(item) for item in node] if isinstance(node, list) else node

    texts = [yaml.safe_load(FILES[name]) for name in ("kaniko-task", "pipeline", "pipelinerun")]
    texts += [yaml.safe_load(CASES["PipelineRun with all inside"])]
    check_files({"a.yaml": yaml.safe_dump_all([put(one) for one in texts])}, "restricted")


@given(st.text("$()[]*.'\"params workspaces results", max_size=60))
def test_any_text_with_variables_is_checked_without_a_crash(text: str) -> None:
    task = yaml.safe_load(of("Task", STEPS))
    task["spec"]["steps"][0]["args"] = [text]
    check_files({"a.yaml": yaml.safe_dump(task)}, "")


def test_each_rule_for_tekton_has_a_case() -> None:
    names = ("UNKNOWN_FIELD", "WRONG_TYPE", "MISSING_FIELD", "OLD_VERSION", "UNDECLARED",
             "ARRAY_IN_TEXT", "NO_SUCH_TASK", "CIRCLE", "SCRIPT_INJECTION")  # fmt: skip
    shown = {code for text in CASES.values() for _, code in marked(text)}
    assert {getattr(rules, name).code for name in names} <= shown
    assert "not-given" in {code for *_, code in PLANTED}

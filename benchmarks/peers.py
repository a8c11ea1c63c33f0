"""How fast is pybuild against buildah and BuildKit, on the same work in the same minutes?

`python -m benchmarks.peers [--workloads abcd] [--runs 5] [--builders pybuild,buildah,BuildKit]`

For each workload the builders take turns, `--runs` times. Before each build the builder's storage
is empty (BuildKit: a new daemon on a new root folder, started before the clock) and the registry
holds the base images only. The time is that of pull, build and push together; the memory that of
the builder's largest single process without the commands of RUN. What is compared are medians, and
only those of one run of this program: a machine's speed changes from hour to hour.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median

from benchmarks.builders import (
    Buildah,
    BuildBroke,
    Builder,
    Buildkit,
    Measured,
    Pybuild,
    Work,
)
from tests.support.bases import BasesMissing, push_bases
from tests.support.oracle.install import OracleMissing, install
from tests.support.oracle.registry import RegistryMissing, free_port, get, running_registry

REPOSITORY = Path(__file__).resolve().parents[1]
BASES = ("busybox", "debian")
Results = Mapping[str, Sequence[Measured]]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.peers", description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", default="abcd", help="their letters (default abcd)")
    parser.add_argument("--runs", type=int, default=5, help="of each builder (default 5)")
    parser.add_argument("--builders", default="pybuild,buildah,BuildKit")
    parser.add_argument("--json", type=Path, help="also write every single measurement there")
    chosen = parser.parse_args(arguments)
    folder = Path(os.environ.get("BENCH_DIR") or REPOSITORY / "../shared/bench").resolve()
    if not (folder / "workloads").is_dir():
        print(f"bench: no workloads in {folder}; set BENCH_DIR", file=sys.stderr)
        return 1
    known: dict[str, Builder] = {one.name: one for one in (Pybuild(), Buildah(), Buildkit())}
    try:
        builders = [known[name] for name in chosen.builders.split(",")]
        if any(builder.name == "BuildKit" for builder in builders):
            install()
        results = {
            name: _workload(folder / "workloads" / name, builders, chosen.runs)
            for name in chosen.workloads
        }
    except (BasesMissing, BuildBroke, OracleMissing, RegistryMissing) as problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 1
    print(_table(results))
    if chosen.json:
        chosen.json.write_text(json.dumps(_plain(results), indent=1) + "\n")
    return 0


def _workload(folder: Path, builders: Sequence[Builder], runs: int) -> Results:
    found: dict[str, list[Measured]] = {builder.name: [] for builder in builders}
    with tempfile.TemporaryDirectory(prefix="bench-") as work:
        context = Path(work) / "context"
        shutil.copytree(folder, context, ignore=shutil.ignore_patterns("gen.py"))
        if (folder / "gen.py").exists():
            subprocess.run([sys.executable, folder / "gen.py", context / "data"], check=True)
        with _pristine_registry(Path(work)) as pristine:
            port = free_port()
            for turn in range(runs):
                first = turn % len(builders)  # whoever comes after another may pay for its traces
                for builder in (*builders[first:], *builders[:first]):
                    measured = _one(builder, pristine, port, context, folder.name)
                    found[builder.name].append(measured)
                    print(
                        f"{folder.name} {turn + 1}/{runs} {builder.name:9}"
                        f" {measured.seconds:7.2f} s  {measured.cpu_seconds:6.2f} CPU"
                        f"  {measured.peak_mb:5.0f} MB",
                        file=sys.stderr,
                        flush=True,
                    )
    return found


@contextmanager
def _pristine_registry(work: Path) -> Iterator[Path]:
    """Storage of a registry where only the bases are; it is copied for every build."""
    storage = work / "pristine"
    with running_registry(storage) as registry:
        push_bases(registry, BASES)
    yield storage


def _one(builder: Builder, pristine: Path, port: int, context: Path, name: str) -> Measured:
    """One build against a registry of its own; the same port, so that nothing else differs."""
    with tempfile.TemporaryDirectory(prefix="bench-registry-") as storage:
        subprocess.run(["cp", "-a", f"{pristine}/.", storage], check=True)
        os.sync()  # nobody pays for what was written or removed before
        with running_registry(Path(storage), port=port) as registry:
            work = Work(name, context, registry, f"{registry}/bench/{name}:latest")
            measured = builder.measure(work)
            get(registry, f"/v2/bench/{name}/manifests/latest")
    return measured


def _table(results: Mapping[str, Results]) -> str:
    lines = ["", "median seconds (fastest to slowest), median processor seconds, peak memory", ""]
    for workload, found in results.items():
        for name, measured in found.items():
            seconds = [one.seconds for one in measured]
            lines.append(
                f"{workload}  {name:9} {median(seconds):7.2f} s"
                f" ({min(seconds):.2f} to {max(seconds):.2f})"
                f"  {median(one.cpu_seconds for one in measured):6.2f} CPU"
                f"  {max(one.peak_mb for one in measured):5.0f} MB"
            )
        lines += [_ratio(workload, found), ""]
    return "\n".join(lines)


def _ratio(workload: str, found: Results) -> str:
    medians = {name: median(one.seconds for one in all_) for name, all_ in found.items()}
    ours = medians.pop("pybuild", None)
    if ours is None or not medians:
        return ""
    fastest = min(medians, key=lambda name: medians[name])
    return f"{workload}  pybuild : {fastest} = {ours / medians[fastest]:.2f}"


def _plain(results: Mapping[str, Results]) -> dict[str, dict[str, list[dict[str, float]]]]:
    return {
        workload: {name: [asdict(one) for one in all_] for name, all_ in found.items()}
        for workload, found in results.items()
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

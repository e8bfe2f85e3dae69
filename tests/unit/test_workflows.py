"""GitHub's workflows, as far as it can be known without GitHub: tests/unit/test_linters.py checks its form."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pre_commit.yaml import yaml_load

from zosia_build import hosts

FOLDER = Path(__file__).parents[2] / ".github" / "workflows"
NAMES = sorted(path.name for path in FOLDER.iterdir())
WRITES = {
    "abuse.yml": set(),
    "test.yml": {"site"},
    "release.yml": {"publish", "index"},
}  # jobs that may change anything outside


def read(name: str) -> dict[str, Any]:
    workflow: dict[str, Any] = yaml_load((FOLDER / name).read_text(encoding="utf-8"))
    return workflow


def steps(name: str) -> Iterator[dict[str, Any]]:
    for job in read(name)["jobs"].values():
        yield from job["steps"]


@pytest.mark.parametrize("name", NAMES)
def test_each_script_is_there(root: Path, name: str) -> None:
    words = [word for step in steps(name) for word in shlex.split(step.get("run", ""))]
    scripts = [word for word in words if word.startswith("./")]
    assert scripts
    for script in scripts:
        assert os.access(root / script, os.X_OK), script


def each_host() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield each host of test.yml, as the matrix has it, and its job."""
    for job in read("test.yml")["jobs"].values():
        for entry in job.get("strategy", {}).get("matrix", {}).get("include", []):
            yield entry, job


def test_the_tests_are_those_of_everybody() -> None:
    plan = hosts.read_plan(hosts.PLAN)
    tested = [entry["host"] for entry in read("test.yml")["jobs"]["test"]["strategy"]["matrix"]["include"]]
    assert tested == ["debian-12", "debian-13"]
    assert all("./scripts/test.sh" in plan[name].commands for name in tested)


def test_each_host_has_a_job_that_writes_its_line() -> None:
    plan = hosts.read_plan(hosts.PLAN)
    assert sorted(entry["host"] for entry, _ in each_host()) == sorted(plan)
    for entry, job in each_host():
        assert job["env"]["HOST"] == "${{ matrix.host }}"
        (at,) = (
            i for i, step in enumerate(job["steps"]) if step.get("run", "").startswith('./scripts/try-host.sh "$HOST"')
        )
        line = job["steps"][at + 1]
        assert line["uses"].startswith("actions/upload-artifact@")
        assert line["if"] == "${{ !cancelled() }}", "of a host that failed, too"
        assert line["with"]["name"] == "host-${{ matrix.host }}"
        assert line["with"]["path"] == "build/host-${{ matrix.host }}.json"
        assert "continue-on-error" not in job
        assert "continue-on-error" not in job["steps"][at]
        assert isinstance(entry.get("minutes", job["timeout-minutes"]), int)
        tests = any("python -m pytest" in command for command in plan[entry["host"]].commands)
        assert not tests or "--dev" in entry["packages"].split()


def test_the_hosts_are_those_they_are_said_to_be() -> None:
    seen = {entry["host"]: (entry.get("runner", job["runs-on"]), entry.get("container")) for entry, job in each_host()}
    assert seen == {
        "debian-12": ("ubuntu-24.04", "debian:12"),
        "debian-13": ("ubuntu-24.04", "debian:13"),
        "ubuntu-kvm": ("ubuntu-24.04", None),
        "ubuntu-arm": ("ubuntu-24.04-arm", None),
        "macos": ("macos-15", None),
        "fedora": ("ubuntu-24.04", "fedora:latest"),
        "arch": ("ubuntu-24.04", "archlinux:latest"),
    }
    assert [name for name, plan in hosts.read_plan(hosts.PLAN).items() if plan.accel] == ["ubuntu-kvm"]


def test_the_lines_are_collected_by_a_bare_python(root: Path, tmp_path: Path) -> None:
    """By the workflow's own command: from the files that were downloaded, into the file that is uploaded."""
    job = read("test.yml")["jobs"]["hosts"]
    assert set(job["needs"]) == {"test", "elsewhere"}
    download, (command,) = job["steps"][1]["with"], [step["run"] for step in job["steps"] if "run" in step]
    assert (download["pattern"], download["path"], download["merge-multiple"]) == ("host-*", "build", True)
    assert job["steps"][-1]["with"]["path"] == "docs/hosts.json"
    shutil.copytree(root / "site_scons", tmp_path / "site_scons")
    for name in (".ci/hosts.toml", "docs/hosts.json"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(root / name, tmp_path / name)
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n', encoding="utf-8")  # no packages
    python.chmod(0o755)
    (old, *_) = json.loads((root / "docs" / "hosts.json").read_text(encoding="utf-8"))
    (tmp_path / "build").mkdir()
    for name in ("arch", "ubuntu-kvm"):
        text = json.dumps([{**old, "host": name}])
        (tmp_path / "build" / f"host-{name}.json").write_text(text, encoding="utf-8")
    environment = {"PATH": f"{python.parent}:/usr/bin:/bin"}
    subprocess.run(["/bin/sh", "-e", "-c", command], cwd=tmp_path, env=environment, check=True)
    merged = json.loads((tmp_path / "docs" / "hosts.json").read_text(encoding="utf-8"))
    assert {"arch", "ubuntu-kvm", old["host"]} <= {line["host"] for line in merged}


@pytest.mark.parametrize("there", [False, True])
def test_kvm_is_opened_where_there_is_one(tmp_path: Path, there: bool) -> None:
    (command,) = (step["run"] for step in steps("test.yml") if "/dev/kvm" in step.get("run", ""))
    device, sudo = tmp_path / "kvm", tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\nexec "$@"\n', encoding="utf-8")
    sudo.chmod(0o755)
    if there:
        device.touch(mode=0o600)
    argv = ["/bin/sh", "-e", "-c", command.replace("/dev/kvm", str(device))]
    subprocess.run(argv, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    assert not there or device.stat().st_mode & 0o777 == 0o666


@pytest.mark.parametrize("name", NAMES)
def test_commands_are_short(name: str) -> None:
    for step in steps(name):
        assert "\n" not in step.get("run", ""), "that is for a script, which can be run and tested anywhere"
        assert "${{" not in step.get("run", ""), "text of others would become a part of a command"


def test_actions_are_pinned() -> None:
    """By their whole commit, the same everywhere, with the version for a person to read."""
    texts = [(FOLDER / name).read_text(encoding="utf-8") for name in NAMES]
    used = [line for text in texts for line in re.findall(r"uses: (.*)", text)]
    assert used
    trusted = r"actions/[\w-]+|pypa/gh-action-pypi-publish"
    assert all(re.fullmatch(rf"({trusted})@[0-9a-f]{{40}} # v\d+\.\d+\.\d+", line) for line in used), used
    assert len(set(used)) == len({line.split("@")[0] for line in used})


@pytest.mark.parametrize("name", NAMES)
def test_least_permissions(name: str) -> None:
    workflow = read(name)
    assert workflow["permissions"] == {"contents": "read"}
    jobs = {job for job, said in workflow["jobs"].items() if "permissions" in said}
    assert jobs == WRITES[name]
    for job in jobs:
        said = workflow["jobs"][job]
        assert "container" not in said
        assert not [step for step in said["steps"] if step.get("uses", "").startswith("actions/checkout")]


def test_the_key_that_signs_is_only_where_a_release_is_signed() -> None:
    """In a job that may change nothing outside, of an environment that the owner can restrict."""
    for name in NAMES:
        for job, said in read(name)["jobs"].items():
            assert ("SIGNING_KEY" in json.dumps(said)) == (job == "sign")
    sign, publish = (read("release.yml")["jobs"][name] for name in ("sign", "publish"))
    assert (sign["environment"], sign.get("permissions")) == ("release", None)
    (key,) = (step for step in sign["steps"] if "env" in step)
    before = [step.get("run") for step in sign["steps"][: sign["steps"].index(key)]]
    assert before[-1] == "cmp first/release/SHA256SUMS second/release/SHA256SUMS", "what differs is never signed"
    assert key["run"] == "./scripts/sign-release.sh first/release"
    assert sign["steps"][-1]["with"]["path"] == "first/release"
    assert key["env"] == {"SIGNING_KEY": "${{ secrets.SIGNING_KEY }}"}
    assert set(publish["needs"]) == {"build", "sign"}
    commands = [step["run"] for step in publish["steps"] if "run" in step]
    assert "cmp first/release/SHA256SUMS signed/SHA256SUMS" in commands, "the job that has the key adds signatures only"
    assert commands[-1].endswith(" signed/*")


def test_the_package_index_gets_the_wheel_alone_and_only_if_the_owner_says_so(tmp_path: Path) -> None:
    """By the owner's variable, after the release, and without a password: the index knows the workflow."""
    job = read("release.yml")["jobs"]["index"]
    assert job["if"] == "vars.PUBLISH == 'true'"
    assert (job["needs"], job["permissions"]) == ("publish", {"id-token": "write"})
    assert "secrets" not in json.dumps(job)
    for name in ("zosia-1.2.3-py3-none-any.whl", "zosia-1.2.3-sources.tar", "zosia-1.2.3-x86_64.iso"):
        (tmp_path / "release" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "release" / name).write_text(name, encoding="utf-8")
    subprocess.run("sha256sum -- * >SHA256SUMS", shell=True, cwd=tmp_path / "release", check=True)
    for step in job["steps"]:
        if "run" in step:
            folder = tmp_path / step.get("working-directory", ".")
            subprocess.run(["/bin/sh", "-e", "-c", step["run"]], cwd=folder, check=True)
    assert [path.name for path in (tmp_path / "dist").iterdir()] == ["zosia-1.2.3-py3-none-any.whl"]
    assert job["steps"][-1]["uses"].startswith("pypa/gh-action-pypi-publish@")


def test_the_cache_goes_by_content(root: Path) -> None:
    (cache,) = (step["with"] for step in steps("test.yml") if step.get("uses", "").startswith("actions/cache@"))
    assert cache["key"].startswith("zosia-${{ matrix.host }}-"), "what one system compiled is of no use to another"
    patterns = re.findall(r"'([^']+)'", cache["key"])
    assert {"sources.toml", "models.toml"} < set(patterns)
    for pattern in patterns:
        assert list(root.glob(pattern)), pattern
    assert cache["key"].startswith(cache["restore-keys"])

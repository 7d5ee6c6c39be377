"""Files for containers, clusters and services have the form that their programs ask for."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import spec_opt
import spec_opt.cli  # adds the commands
from spec_opt.cli.common import app

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
JOBS = sorted((ROOT / "docs/kubernetes").glob("*.yaml"))
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yaml"))


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def parse(words: list[str]) -> None:
    """Check a command line of spec-opt, without the program's name."""
    name, *arguments = words
    command = app.get_command(click.Context(app), name)
    assert command is not None, name
    command.make_context(name, arguments)


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_kubernetes_jobs(path: Path) -> None:
    job = load(path)
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", job["metadata"]["name"])
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    parse(container["args"])
    # A failure policy needs pods that are not restarted, and names a container.
    assert pod["restartPolicy"] == "Never"
    for rule in job["spec"]["podFailurePolicy"]["rules"]:
        assert rule["action"] in {"FailJob", "Ignore", "Count"}
        assert rule.keys() & {"onExitCodes", "onPodConditions"}
        if codes := rule.get("onExitCodes"):
            assert (codes["containerName"], codes["values"]) == (container["name"], [2])
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    assert pod["securityContext"]["runAsNonRoot"]
    own = container["securityContext"]
    assert own["readOnlyRootFilesystem"]
    assert not own["allowPrivilegeEscalation"]
    assert own["capabilities"] == {"drop": ["ALL"]}
    (secret,) = [entry for entry in container["env"] if "valueFrom" in entry]
    assert secret["name"] == "SPEC_OPT_STORAGE"
    # What the image can write, it writes to volumes.
    written = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/work", "/cache", "/tmp"} <= written
    assert f":{spec_opt.__version__}" in container["image"]


def test_all_shell_scripts_parse() -> None:
    scripts = sorted((ROOT / "docs").rglob("*.sh"))
    assert scripts
    for script in scripts:
        subprocess.run(["bash", "-n", str(script)], check=True)


def test_compose_keeps_its_password_and_ports_to_itself() -> None:
    compose = load(ROOT / "storage/compose.yaml")
    services = compose["services"]
    for name, service in services.items():
        assert service["secrets"] == ["postgres_password"]
        named = {volume.split(":")[0] for volume in service["volumes"]}
        assert named <= compose["volumes"].keys()
        for other in service.get("depends_on", {}):
            assert other in services
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        if name != "postgres":
            assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
            parse([re.sub(r"\$\{STUDY:-(\w+)\}", r"\1", word) for word in service["command"]])
            assert "@postgres/" in service["environment"]["SPEC_OPT_STORAGE"]
    assert services["worker"]["deploy"]["replicas"] == 2
    assert services["worker"]["depends_on"]["models"] == {
        "condition": "service_completed_successfully"
    }


def test_the_password_of_compose_reaches_the_program(tmp_path: Path) -> None:
    """The entry of its services, with files in the places of the secret and the program."""
    compose = load(ROOT / "storage/compose.yaml")
    shell, option, script, zero = compose["services"]["worker"]["entrypoint"]
    (tmp_path / "secret").write_text("a b$c\n", encoding="utf-8")
    program = tmp_path / "spec-opt"
    program.write_text('#!/bin/sh\nprintf "%s|%s" "$PGPASSWORD" "$*"\n', encoding="utf-8")
    program.chmod(0o755)
    script = script.replace("$$", "$").replace("/run/secrets/postgres_password", "secret")
    done = subprocess.run(
        [shell, option, script, zero, "worker", "mine"],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "a b$c|worker mine"


def test_the_image_runs_as_an_ordinary_user_with_what_the_build_copies() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    (user,) = [line for line in lines if line.startswith("USER ")]
    assert user == "USER 10001:10001"
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            for name in line.split()[1:-1]:
                assert (ROOT / name).exists(), name
                assert f"!{name}" in ignored, name


def steps(workflow: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for job in workflow["jobs"].values():
        yield from job["steps"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows(path: Path) -> None:
    workflow = load(path)
    # YAML 1.1 reads the key `on` as true.
    assert {"name", True, "permissions", "jobs"} <= workflow.keys()
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        needed = job.get("needs", [])
        assert {needed} if isinstance(needed, str) else set(needed) <= workflow["jobs"].keys()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for step in steps(workflow):
        assert len(step.keys() & {"run", "uses"}) == 1
        for target in re.findall(r"\bmake (\w+)", step.get("run", "")):
            assert re.search(rf"(?m)^{target}:", makefile), target


def test_every_supported_python_is_tested() -> None:
    matrix = load(ROOT / ".github/workflows/test.yaml")["jobs"]["test"]["strategy"]["matrix"]
    prefix = "Programming Language :: Python :: "
    named = [c.removeprefix(prefix) for c in PYPROJECT["classifiers"] if c.startswith(prefix)]
    assert matrix["python"] == named
    major, minor = map(int, named[-1].split("."))
    assert PYPROJECT["requires-python"] == f">={named[0]},<{major}.{minor + 1}"


def test_the_lock_has_the_tested_versions_from_the_public_index() -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    assert lock["requires-python"].replace(" ", "") == PYPROJECT["requires-python"]
    (own,) = [one for one in lock["package"] if one["name"] == PYPROJECT["name"]]
    extras = PYPROJECT["optional-dependencies"].values()
    needed = map(Requirement, [*PYPROJECT["dependencies"], *chain(*extras)])
    assert {(canonicalize_name(one.name), one.specifier) for one in needed} == {
        (one["name"], SpecifierSet(one["specifier"])) for one in own["metadata"]["requires-dist"]
    }
    locked = {(one["name"], one.get("version")) for one in lock["package"]}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, _, version = line.partition("==")
        assert line.startswith("#") or (canonicalize_name(name), version) in locked, line
    for package in lock["package"]:
        assert package is own or package["source"] == {"registry": "https://pypi.org/simple"}
        files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
        assert {urlsplit(file["url"]).netloc for file in files} <= {"files.pythonhosted.org"}


def test_citation() -> None:
    citation = load(ROOT / "CITATION.cff")
    required = {"cff-version", "message", "title", "authors"}
    assert required <= citation.keys()
    assert citation["version"] == spec_opt.__version__
    for paper in citation["references"]:
        assert {"type", "title", "authors", "year", "url"} <= paper.keys()
        (identifier,) = paper["identifiers"]
        assert paper["url"].removeprefix("https://arxiv.org/abs/") in identifier["value"]


def test_pre_commit_takes_the_tools_of_the_checkout() -> None:
    (repository,) = load(ROOT / ".pre-commit-config.yaml")["repos"]
    tools = {hook["entry"].split()[0] for hook in repository["hooks"]}
    assert tools == {".venv/bin/ruff", ".venv/bin/mypy"}

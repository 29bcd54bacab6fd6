"""The Kubernetes manifests against the API's own schemas and the Dask operator's resource definitions, offline."""

import importlib.util
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.support.real_data import REPOSITORY

FOLDER = REPOSITORY / "deploy" / "kubernetes"
VERSIONS = ("1.30.0", kubernetes_validate.latest_version())
CRDS = "operator/deployment/helm/dask-kubernetes-operator/crds"


def load(name: str) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return manifest


def pods() -> dict[str, dict[str, Any]]:
    """Pod specification by role."""
    cluster = load("cluster.yaml")["spec"]
    driver = load("driver.yaml")["spec"]["template"]["spec"]
    return {"scheduler": cluster["scheduler"]["spec"], "worker": cluster["worker"]["spec"], "driver": driver}


def operator_schema() -> dict[str, Any]:
    spec = importlib.util.find_spec("dask_kubernetes")
    assert spec is not None
    assert spec.origin is not None
    definition = yaml.safe_load((Path(spec.origin).parent / CRDS / "daskcluster.yaml").read_text())
    (version,) = definition["spec"]["versions"]
    assert load("cluster.yaml")["apiVersion"] == f"{definition['spec']['group']}/{version['name']}"
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["driver.yaml", "network-policy.yaml"])
def test_plain_resources_are_what_the_api_takes(name: str, version: str) -> None:
    kubernetes_validate.validate(load(name), version, strict=True)


@pytest.mark.slow
def test_the_cluster_is_what_the_operator_takes() -> None:
    jsonschema.validate(load("cluster.yaml"), operator_schema())


@pytest.mark.slow
def test_the_operators_schema_refuses_a_cluster_without_workers() -> None:
    cluster = load("cluster.yaml")
    del cluster["spec"]["worker"]
    with pytest.raises(jsonschema.ValidationError, match="worker"):
        jsonschema.validate(cluster, operator_schema())


@pytest.mark.parametrize("role", ["scheduler", "worker"])
def test_pods_of_the_cluster_are_what_the_api_takes(role: str) -> None:
    pod: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": role}, "spec": pods()[role]}
    for version in VERSIONS:
        kubernetes_validate.validate(pod, version, strict=True)
    pod["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, VERSIONS[0], strict=True)


@pytest.mark.parametrize("role", ["scheduler", "worker", "driver"])
def test_every_pod_has_certificates_and_few_rights(role: str) -> None:
    spec = pods()[role]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"tls", "s3"} <= set(mounted)
    folder = next(variable["value"] for variable in container["env"] if variable["name"] == "SSEM_DASK_TLS")
    assert folder == mounted["tls"]
    assert "memory" in container["resources"]["limits"]
    assert not any("tcp://" in word for word in container["args"])

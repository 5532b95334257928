"""Own checks of the fields that the KubeRay templates use.

Source: the CRDs and the operator's validation of KubeRay v1.7.0 (commit feeaf72): helm-chart/kuberay-operator/crds/
ray.io_rayjobs.yaml and ray.io_rayclusters.yaml for names and types, ray-operator/controllers/ray/utils/validation.go
for the rules. No package on the registries ships them. On 2026-11-25 the three files were held by hand against these
CRDs, with no field allowed that they do not name: no problem. Kueue: kueue.sigs.k8s.io/docs/tasks/run/rayjobs.
"""

from typing import Any

from tests.cluster.templates import CLUSTER, RAY, plain_yaml

_CONTAINER = {
    "name": str,
    "image": str,
    "env": [{"name": str, "value": str}],
    "securityContext": {"allowPrivilegeEscalation": bool, "capabilities": {"drop": [str]}},
    "resources": {"requests": dict, "limits": dict},
    "volumeMounts": [{"name": str, "mountPath": str, "readOnly": bool}],
}
_TEMPLATE = {
    "metadata": {"annotations": dict},
    "spec": {
        "serviceAccountName": str,
        "automountServiceAccountToken": bool,
        "terminationGracePeriodSeconds": int,
        "nodeSelector": dict,
        "tolerations": [{"key": str, "operator": str, "value": str, "effect": str}],
        "securityContext": {
            "runAsNonRoot": bool,
            "runAsUser": int,
            "fsGroup": int,
            "seccompProfile": {"type": str},
        },
        "containers": [_CONTAINER],
        "volumes": [{"name": str, "configMap": {"name": str}}],
    },
}
_CLUSTER = {
    "rayVersion": str,
    "authOptions": {"mode": str},
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": {"version": str, "upscalingMode": str, "idleTimeoutSeconds": int},
    "headGroupSpec": {"rayStartParams": dict, "template": _TEMPLATE},
    "workerGroupSpecs": [
        {
            "groupName": str,
            "minReplicas": int,
            "replicas": int,
            "maxReplicas": int,
            "labels": dict,
            "rayStartParams": dict,
            "template": _TEMPLATE,
        }
    ],
}
_JOB = {
    "entrypoint": str,
    "suspend": bool,
    "backoffLimit": int,
    "activeDeadlineSeconds": int,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    "runtimeEnvYAML": str,
    "rayClusterSpec": _CLUSTER,
}
_KINDS = {"RayJob": _JOB, "RayCluster": _CLUSTER}
_METADATA = {"name": str, "labels": dict, "annotations": dict}
_SPOT = "ray.io/market-type"
_QUEUE = "kueue.x-k8s.io/queue-name"


def field_problems(data: Any, fields: Any, place: str) -> list[str]:
    """Fields of `data` that `fields` does not name, or that are of another type."""
    if isinstance(fields, dict) and isinstance(data, dict):
        unknown = [f"{place}.{key} is no field of it" for key in data if key not in fields]
        known = [
            found for key in data if key in fields for found in field_problems(data[key], fields[key], f"{place}.{key}")
        ]
        return unknown + known
    if isinstance(fields, list) and isinstance(data, list):
        return [found for item in data for found in field_problems(item, fields[0], f"{place}[]")]
    wanted = type(fields) if isinstance(fields, dict | list) else fields
    return [] if type(data) is wanted else [f"{place} must be {wanted.__name__}, but is {data!r}"]


def account_problems(text: str) -> list[str]:
    """Of the service account."""
    fields = {"apiVersion": str, "kind": str, "metadata": _METADATA}
    data = plain_yaml(text)
    wanted = (data.get("apiVersion"), data.get("kind")) == ("v1", "ServiceAccount")
    return field_problems(data, fields, "ServiceAccount") + ([] if wanted else ["it must be a v1 ServiceAccount"])


def problems(text: str) -> list[str]:
    """Of a RayJob or a RayCluster."""
    data = plain_yaml(text)
    kind = data.get("kind")
    if data.get("apiVersion") != "ray.io/v1" or kind not in _KINDS:
        return ["it must be a RayJob or RayCluster of ray.io/v1"]
    fields = {"apiVersion": str, "kind": str, "metadata": _METADATA, "spec": _KINDS[kind]}
    found = field_problems(data, fields, kind)
    if found:
        return found
    spec = data["spec"]
    job = _job_problems(data) if kind == "RayJob" else []
    return job + _cluster_problems(spec if kind == "RayCluster" else spec["rayClusterSpec"])


def _job_problems(data: dict[str, Any]) -> list[str]:
    spec, labels = data["spec"], data["metadata"].get("labels", {})
    queued, scaling = _QUEUE in labels, spec["rayClusterSpec"]["enableInTreeAutoscaling"]
    rules = {
        "backoffLimit must give a lost cluster another try": spec.get("backoffLimit", 0) >= 1,
        "the cluster must go when the job is done": spec.get("shutdownAfterJobFinishes") is True,
        "activeDeadlineSeconds must bound what it costs": spec.get("activeDeadlineSeconds", 0) > 0,
        "Kueue wants suspend, and only Kueue lifts it": spec.get("suspend", False) == queued,
        "Kueue wants in-tree autoscaling off": not (queued and scaling),
        "the driver must be stopped by SIGINT": "RAY_JOB_STOP_SIGNAL: SIGINT" in spec.get("runtimeEnvYAML", ""),
    }
    return [rule for rule, holds in rules.items() if not holds]


def _cluster_problems(spec: dict[str, Any]) -> list[str]:
    head, groups = spec["headGroupSpec"], spec["workerGroupSpecs"]
    annotations = head["template"].get("metadata", {}).get("annotations", {})
    scaling = spec.get("autoscalerOptions", {})
    rules = {
        "the token must be on": spec.get("authOptions", {}).get("mode") == "token",
        f"rayVersion must be {RAY}": spec.get("rayVersion") == RAY,
        "the head must hold no runs": head["rayStartParams"].get("num-cpus") == "0",
        "the head must not be evicted": annotations.get("cluster-autoscaler.kubernetes.io/safe-to-evict") == "false",
        "the head must be on demand": not {"nodeSelector", "tolerations"} & set(head["template"]["spec"]),
        "autoscaling must be v2": not spec["enableInTreeAutoscaling"] or scaling.get("version") == "v2",
        "there must be a group of spot workers": any(g.get("labels", {}).get(_SPOT) == "spot" for g in groups),
        "there must be a group with GPUs": any(
            "nvidia.com/gpu" in _container(group)["resources"]["limits"] for group in groups
        ),
    }
    found = [rule for rule, holds in rules.items() if not holds]
    for group in groups:
        found += _group_problems(group, is_scaled=spec["enableInTreeAutoscaling"])
    return found + [rule for group in (head, *groups) for rule in _pod_problems(group["template"]["spec"])]


def _group_problems(group: dict[str, Any], *, is_scaled: bool) -> list[str]:
    pod, resources = group["template"]["spec"], _container(group)["resources"]
    market, tolerated = group.get("labels", {}).get(_SPOT), pod.get("tolerations", [])
    chosen = [pod.get("nodeSelector"), tolerated]
    least, now, most = (group[f"{which}eplicas"] for which in ("minR", "r", "maxR"))
    rules = {
        "workers must be labelled spot or on-demand": market in ("spot", "on-demand"),
        "workers must be chosen": "nodeSelector" in pod,
        "spot workers must be tolerated": market != "spot" or len(tolerated) >= 2,
        "on-demand workers must not be chosen as spot": market != "on-demand" or "spot" not in str(chosen).lower(),
        "workers must not speak with Kubernetes": pod.get("automountServiceAccountToken") is False,
        "replicas must be in order": 0 <= least <= now <= most and most > 0,
        "without autoscaling all replicas are alike": is_scaled or least == now == most,
        "requests and limits must be alike": resources["requests"] == resources["limits"],
    }
    return [f"{group['groupName']}: {rule}" for rule, holds in rules.items() if not holds]


def _container(group: dict[str, Any]) -> dict[str, Any]:
    return group["template"]["spec"]["containers"][0]


def _pod_problems(pod: dict[str, Any]) -> list[str]:
    account = plain_yaml((CLUSTER / "kuberay" / "service-account.yaml").read_text())["metadata"]["name"]
    container, volumes = pod["containers"][0], {volume["name"] for volume in pod.get("volumes", [])}
    rules = {
        "the storage must be had by the service account": pod.get("serviceAccountName") == account,
        "no container may run as root": pod.get("securityContext", {}).get("runAsNonRoot") is True,
        "no container may gain rights": container["securityContext"]["allowPrivilegeEscalation"] is False,
        f"the image must say ray{RAY}": f":ray{RAY}-" in container["image"],
        "a volume must be there": {mount["name"] for mount in container.get("volumeMounts", [])} == volumes,
    }
    return [rule for rule, holds in rules.items() if not holds]

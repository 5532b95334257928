"""Every template below cluster/ is right by the check of its kind, and each check finds planted mistakes."""

import re
import shutil
import subprocess
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.cluster import kuberay, others
from tests.cluster.templates import CLUSTER, RAY, launch_problems, name_of, shared_problems

Check = Callable[[str], list[str]]
# Pattern of a path below cluster/ -> the check of its kind, and whether a person starts a study from it.
KINDS: dict[str, tuple[Check, bool]] = {
    "kuberay/ray*.yaml": (kuberay.problems, True),
    "kuberay/service-account.yaml": (kuberay.account_problems, False),
    "vm/*.yaml": (others.vm_problems, True),
    "compose/compose.yaml": (others.compose_problems, True),
    "skypilot/*.yaml": (others.skypilot_problems, True),
    "slurm/*.sbatch": (others.sbatch_problems, True),
    "Dockerfile": (others.docker_problems, False),
    "ray-node.sh": (others.script_problems, False),
}
CHECKED_ELSEWHERE = {"README.md", "Dockerfile.dockerignore", "compose/token"}
JOB, QUEUED, RAYCLUSTER = "kuberay/rayjob.yaml", "kuberay/rayjob-kueue.yaml", "kuberay/raycluster.yaml"
AWS, GCP, COMPOSE, SKY, SLURM = (
    "vm/aws.yaml",
    "vm/gcp.yaml",
    "compose/compose.yaml",
    "skypilot/study.yaml",
    "slurm/study.sbatch",
)
FILES = sorted(path for path in CLUSTER.rglob("*") if path.is_file() and name_of(path) not in CHECKED_ELSEWHERE)


def problems(name: str, text: str) -> list[str]:
    check, is_launched = next(kind for pattern, kind in KINDS.items() if fnmatch(name, pattern))
    found = shared_problems(name, text) + check(text)
    return found + (launch_problems(text) if is_launched else [])


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_template_is_right_by_the_check_of_its_kind(path):
    assert problems(name_of(path), path.read_text()) == []


@pytest.mark.parametrize("name", [JOB, QUEUED, RAYCLUSTER])
def test_the_second_group_is_right_once_its_signs_are_taken_off(name):
    above, sign, group = (CLUSTER / name).read_text().partition("# - groupName: gpu-on-demand")
    text = above + sign[2:] + re.sub(r"(?m)^( +)# ", r"\1", group)
    assert text.count("# CHANGE") > above.count("# CHANGE") + 3
    assert problems(name, text) == []
    assert "gpu-on-demand: spot workers must be tolerated" in str(
        problems(name, text.replace("type: on-demand", "type: spot"))
    )


def test_every_kind_of_cluster_that_the_readme_offers_has_a_template():
    for pattern in KINDS:
        assert any(fnmatch(name_of(path), pattern) for path in FILES), pattern
    page = (CLUSTER / "README.md").read_text()
    for path in FILES:
        assert f"({name_of(path)})" in page, f"cluster/README.md does not link {name_of(path)}"


DOCKER, NODE = "Dockerfile", "ray-node.sh"
TOKEN_ON = "export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0; ulimit -n 65536;\n    ray start --address"
PLANTED = [
    (JOB, "mode: token", "mode: disabled", "the token is turned off"),
    (JOB, "    authOptions:\n      mode: token\n", "", "the token must be on"),
    (JOB, f'rayVersion: "{RAY}"', 'rayVersion: "2.52.0"', f"Ray must be {RAY}"),
    (JOB, f":ray{RAY}-cuda", ":latest", f"the image must say ray{RAY}"),
    (JOB, "backoffLimit: 3", "backofLimit: 3", "RayJob.spec.backofLimit is no field of it"),
    (JOB, "backoffLimit: 3", 'backoffLimit: "3"', "must be int"),
    (JOB, "backoffLimit: 3", "backoffLimit: 0", "another try"),
    (JOB, "run /study/study.yaml --storage s3://BUCKET/raystudy", "run /study/study.yaml", "the documented line"),
    (JOB, "# CHANGE: the storage", "# the storage", "a placeholder has no CHANGE"),
    (JOB, "shutdownAfterJobFinishes: true", "shutdownAfterJobFinishes: false", "the cluster must go"),
    (JOB, 'safe-to-evict: "false"', 'safe-to-evict: "true"', "the head must not be evicted"),
    (JOB, 'num-cpus: "0"', 'num-cpus: "4"', "the head must hold no runs"),
    (JOB, "version: v2", "version: v1", "autoscaling must be v2"),
    (JOB, "serviceAccountName: raystudy\n          sec", "serviceAccountName: other\n          sec", "service account"),
    (JOB, "runAsNonRoot: true", "runAsNonRoot: false", "no container may run as root"),
    (JOB, "apiVersion: ray.io/v1", "apiVersion: ray.io/v1alpha1", "ray.io/v1"),
    (JOB, "market-type: spot", "market-type: any", "must be labelled spot or on-demand"),
    (JOB, "market-type: spot", "market-type: on-demand", "on-demand workers must not be chosen as spot"),
    (JOB, "market-type: spot", "market-type: on-demand", "there must be a group of spot workers"),
    (QUEUED, "suspend: true", "suspend: false", "Kueue wants suspend"),
    (QUEUED, "enableInTreeAutoscaling: false", "enableInTreeAutoscaling: true", "Kueue wants in-tree autoscaling off"),
    (QUEUED, "minReplicas: 4", "minReplicas: 5", "replicas must be in order"),
    (RAYCLUSTER, "idleTimeoutSeconds: 300", "idleTimeout: 300", "is no field of it"),
    (RAYCLUSTER, "rayStartParams:\n", "serviceType: NodePort\n    rayStartParams:\n", "exposed outside"),
    (AWS, "max_workers: 8 # CHANGE: workers", "most_workers: 8 # CHANGE: workers", "most_workers"),
    (AWS, "resources: {CPU: 0}", "resources: {CPU: 2}", "the head must hold no runs"),
    (AWS, "MarketType: spot", "MarketType: capacity-block", "workers must be spot"),
    (AWS, "file_mounts:\n  \"~/.ray", "file_mounts:\n  \"~/ray", "the token must go to all nodes"),
    (AWS, TOKEN_ON, "ray start --address", "the token must be on"),
    (AWS, "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "listens on every address"),
    (AWS, "\nsetup_commands: []", "", "must install nothing"),
    (AWS, "python -m raystudy run my-study.yaml --storage s3://BUCKET/raystudy", "python my.py", "the documented line"),
    (AWS, "region: us-west-2", "region: us-west-2\n  aws_secret_access_key: wJalrXUtnFEMIK7MDENG", "a secret's value"),
    (AWS, '"RAY_JOB_STOP_SIGNAL": "SIGINT", ', "", "how its job is stopped"),
    (COMPOSE, '"RAY_JOB_STOP_WAIT_TIME_S": "60"', '"RAY_JOB_STOP_WAIT_TIME_S": "3"', "how its job is stopped"),
    (GCP, "provisioningModel: SPOT", "provisioningModel: STANDARD", "workers must be spot"),
    (GCP, f"ray{RAY}", "ray2.59.0", f"Ray must be {RAY}"),
    (COMPOSE, '"127.0.0.1:8265:8265"', '"8265:8265"', "loopback alone"),
    (COMPOSE, "secrets: [ray_token]\n", "secrets: []\n", "the token must be a secret"),
    (COMPOSE, "file: ./token", "file: ./tok", "the token must be a secret"),
    (COMPOSE, "RAY_AUTH_TOKEN_PATH: /run/secrets/ray_token", "RAY_AUTH_TOKEN: correct-horse", "a secret's value"),
    (COMPOSE, "replicas: 2", "replicas: 1", "there must be three nodes"),
    (COMPOSE, "volumes: [storage:/storage]", "volumes: []", "all nodes must share the storage"),
    (COMPOSE, "cap_drop: [ALL]", "cap_drop: []", "no container may gain rights"),
    (COMPOSE, "wait head 3", "wait head 2", "the study must wait for all nodes"),
    (COMPOSE, "stop_grace_period", "stop_grace", "is no field of it"),
    (COMPOSE, "init: true", "privileged: true", "exposed"),
    (SKY, "RAY_AUTH_TOKEN: null", "RAY_AUTH_TOKEN: correct-horse", "a secret's value"),
    (SKY, "use_spot: true", "use_spott: true", "is no field of it"),
    (SKY, "export RAY_AUTH_MODE=token", "export RAY_AUTH_MODE=disabled", "the token is turned off"),
    (SKY, "-c constraints.txt ", "", "packages must be pinned"),
    (SKY, 'head=$(head -n 1 <<< "$SKYPILOT_NODE_IPS")', "ray stop", "left alone"),
    (SKY, "    exit 0\n  fi", "    exit 0", "bash cannot read run"),
    (SLURM, "#SBATCH --requeue", "#SBATCH --requeued", "is not an option"),
    (SLURM, "--time=12:00:00", "--time=12h", "is not an option"),
    (SLURM, "set -euo pipefail", "set -euo pipefail\n#SBATCH --exclusive", "without a gap"),
    (SLURM, "umask 077 && ", "", "this user alone"),
    (SLURM, 'run "$STUDY" --storage "$STORAGE"', "run $STUDY --storage $STORAGE", "one word of the shell"),
    (SLURM, "trap tidy EXIT", "tidy() { :; }", "the token must go with the job"),
    (SLURM, "\nexit \"$status\"", "\nif true; then exit", "bash cannot read"),
    (DOCKER, "USER ray\n", "", "not root"),
    (DOCKER, "USER ray\n", "USER root\n", "not root"),
    (DOCKER, "COPY --chown=ray:ray search_spaces", "ADD https://example.org/x", "ADD is not among"),
    (DOCKER, "-c constraints.txt ", "", "packages must be pinned"),
    (DOCKER, "COPY --chown=ray:ray search_spaces ./search_spaces", "COPY tests ./tests", "must be there and be sent"),
    (DOCKER, ".[all,gs]", ".[all]", "s3:// and gs:// need must be in it"),
    (GCP, "client==2.202.0", "client", "packages must have versions"),
    (DOCKER, "PYTHONUNBUFFERED=1", "HUB_AUTH_TOKEN=hf-1234567890", "no secret"),
    (DOCKER, "&& rm -rf", "&& wget https://example.org/x && rm -rf", "fetched by address"),
    (NODE, ":-127.0.0.1}", ":-0.0.0.0}", "listens on every address"),
    (NODE, "start() { # options of `ray start`; never returns\n    need_token\n", "start() {\n", "without a token"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "expected"), PLANTED, ids=[f"{p[0]}-{p[3]}" for p in PLANTED])
def test_a_planted_mistake_is_found(name, old, new, expected):
    text = (CLUSTER / name).read_text()
    assert old in text
    found = problems(name, text.replace(old, new))
    assert any(expected in problem for problem in found), found


def test_docker_compose_reads_the_file_where_it_is_there(tmp_path):
    """Beside our own checks, which hold everywhere."""
    command = [shutil.which("docker") or "docker", "compose"]
    if not shutil.which("docker") or subprocess.run([*command, "version"], capture_output=True, timeout=20).returncode:
        pytest.skip("docker compose is not installed here")
    copy = Path(shutil.copytree(CLUSTER / "compose", tmp_path / "compose"))
    (copy / "token").write_text("x")
    command += ["-f", str(copy / "compose.yaml"), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr


def test_the_pages_and_templates_say_the_same_line_and_the_same_version():
    page = (CLUSTER / "README.md").read_text()
    assert len(re.findall("ray job submit", page)) == len(
        re.findall("ray job submit.*?RAY_JOB_STOP_SIGNAL", page, re.DOTALL)
    )
    assert re.search(r"python -m raystudy run search_spaces/tiny\.yaml --storage /\S+", page)
    assert set(re.findall(r"\bray(\d+\.\d+\.\d+)\b", page)) <= {RAY}

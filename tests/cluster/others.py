"""Own checks of the other templates, each with the source of its fields."""

import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema

from tests.cluster.kuberay import field_problems
from tests.cluster.templates import CLUSTER, PINS, RAY, plain_yaml, shell_problems
from tests.conftest import ROOT

NODE_SCRIPT = "cluster/ray-node.sh"


def _failing(rules: dict[str, bool]) -> list[str]:
    return [rule for rule, holds in rules.items() if not holds]


def ray_schema() -> dict[str, Any]:
    """The JSON Schema of `ray up`, in the ray package, which is not imported for it."""
    place = find_spec("ray")
    assert place is not None
    assert place.origin is not None
    return json.loads((Path(place.origin).parent / "autoscaler" / "ray-schema.json").read_text())


def vm_problems(text: str) -> list[str]:
    """Of a file for `ray up`. Fields: ray-schema.json in the ray package; rules: `validate_config` beside it."""
    data = plain_yaml(text)
    found = [
        f"{error.json_path}: {error.message}" for error in jsonschema.Draft7Validator(ray_schema()).iter_errors(data)
    ]
    if found:
        return found
    types, head_type = data["available_node_types"], data["head_node_type"]
    workers = [value for name, value in types.items() if name != head_type]
    starts = {which: " ".join(data[f"{which}_start_ray_commands"]) for which in ("head", "worker")}
    spot = {
        "aws": ("InstanceMarketOptions", {"MarketType": "spot"}),
        "gcp": ("scheduling", {"provisioningModel": "SPOT"}),
    }
    key, value = spot[data["provider"]["type"]]
    return _failing(
        {
            "the head must hold no runs": types.get(head_type, {}).get("resources") == {"CPU": 0},
            "the head must be on demand": key not in types[head_type]["node_config"],
            "workers must be spot": all(value.items() <= w["node_config"].get(key, {}).items() for w in workers),
            "workers must be labelled spot": all(w.get("labels") == {"ray.io/market-type": "spot"} for w in workers),
            "workers must go when idle": all(w["min_workers"] == 0 for w in workers)
            and data["idle_timeout_minutes"] <= 30,
            "workers must be at most max_workers": sum(w["max_workers"] for w in workers) <= data["max_workers"],
            "the token must go to all nodes": data["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"},
            "the token must be on": all("export RAY_AUTH_MODE=token" in start for start in starts.values()),
            "the job server must be on loopback": "--dashboard-host=127.0.0.1" in starts["head"],
            "the head must start machines": "--autoscaling-config=~/ray_bootstrap_config.yaml" in starts["head"],
            "workers must find the head": "--address=$RAY_HEAD_IP:6379" in starts["worker"],
            "Ray's own defaults must install nothing": all(
                data.get(f"{which}commands") == []
                for which in ("initialization_", "setup_", "head_setup_", "worker_setup_")
            ),
            f"the image must say ray{RAY}": f":ray{RAY}-" in data["docker"]["image"],
            "the image's packages must have versions": all(
                "==" in word or word in PINS for word in re.findall(r"PACKAGES=([\w.=-]+)", text)
            ),
        }
    )


# github.com/compose-spec/compose-spec, schema/compose-spec.json (commit 170098b); held against it by hand, 2026-11-25.
_SERVICE = {
    "image": str,
    "shm_size": str,
    "init": bool,
    "stop_grace_period": str,
    "cap_drop": [str],
    "security_opt": [str],
    "environment": dict,
    "secrets": [str],
    "volumes": [str],
    "networks": [str],
    "command": [str],
    "ports": [str],
    "profiles": [str],
    "healthcheck": {"test": [str], "interval": str, "timeout": str, "start_period": str, "retries": int},
    "depends_on": dict,
    "deploy": {"replicas": int},
}


def compose_problems(text: str) -> list[str]:
    """Of the compose file."""
    data = plain_yaml(text)
    known = {"name": str, "x-node": dict, "services": dict, "networks": dict, "volumes": dict, "secrets": dict}
    found = field_problems(data, known, "compose")
    services = data["services"]
    for name, service in services.items():
        found += field_problems(service, _SERVICE, f"services.{name}")
    if found:
        return found
    ports = [port for service in services.values() for port in service.get("ports", [])]
    nodes = {name: service["command"] for name, service in services.items() if service["command"][0] == NODE_SCRIPT}
    token = data["secrets"]["ray_token"]
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    return _failing(
        {
            "ports must be published on loopback alone": all(port.startswith("127.0.0.1:") for port in ports),
            "there must be three nodes": 1 + services["worker"]["deploy"]["replicas"] == 3,
            "nodes must be started by the script": nodes
            == {"head": [NODE_SCRIPT, "head"], "worker": [NODE_SCRIPT, "worker", "head"]},
            "the head must hold no runs": services["head"]["environment"].get("RAYSTUDY_CPUS") == "0",
            "the study must wait for all nodes": "ray-node.sh wait head 3 &&" in services["study"]["command"][-1],
            "the token must be on": all(s["environment"].get("RAY_AUTH_MODE") == "token" for s in services.values()),
            "the token must be a secret": token == {"file": "./token"}
            and all(s["environment"].get("RAY_AUTH_TOKEN_PATH") == "/run/secrets/ray_token" for s in services.values())
            and all(s["secrets"] == ["ray_token"] for s in services.values()),
            "the token's file must be ignored by git": "cluster/compose/token" in ignored,
            "all nodes must share the storage": all("storage:/storage" in s["volumes"] for s in services.values())
            and "storage" in data["volumes"],
            "no container may gain rights": all(
                s["cap_drop"] == ["ALL"] and s["security_opt"] == ["no-new-privileges:true"] for s in services.values()
            ),
            "services must be on the cluster's network": all(s["networks"] == ["cluster"] for s in services.values()),
            f"the image must say ray{RAY}": all(f":ray{RAY}-" in s["image"] for s in services.values()),
        }
    ) + shell_problems(services["study"]["command"][-1], "the study's command")


# sky/utils/schemas.py of skypilot 0.14.1 (460 MB in all: too much for CI); held against it by hand, 2026-11-25.
_TASK = {
    "name": str,
    "workdir": str,
    "num_nodes": int,
    "resources": {
        "accelerators": str,
        "use_spot": bool,
        "disk_size": int,
        "job_recovery": {"strategy": str, "max_restarts_on_errors": int},
    },
    "envs": {"STUDY": str, "STORAGE": str},
    "secrets": dict,
    "setup": str,
    "run": str,
}


def skypilot_problems(text: str) -> list[str]:
    """Of the SkyPilot task."""
    data = plain_yaml(text)
    found = field_problems(data, _TASK, "task")
    if found:
        return found
    run = data["run"]
    return _failing(
        {
            "there must be several nodes": data["num_nodes"] > 1,
            "workers must be spot": data["resources"]["use_spot"],
            "the strategy must be one of SkyPilot's": data["resources"]["job_recovery"]["strategy"]
            in ("FAILOVER", "EAGER_NEXT_REGION"),
            "the token must be given at launch": data["secrets"] == {"RAY_AUTH_TOKEN": None},
            "the token must be on": "export RAY_AUTH_MODE=token" in run,
            "packages must be pinned": "-c constraints.txt" in data["setup"],
            "SkyPilot's own Ray must be left alone": "ray stop" not in re.sub(r"#.*", "", run)
            and run.count("--dashboard-agent-listen-port 52366") == 2,
            "nodes must be started by the script": run.count(NODE_SCRIPT) == 3,
        }
    ) + [problem for part in ("setup", "run") for problem in shell_problems(data[part], part)]


# slurm.schedmd.com/sbatch.html; a value's form as there.
_SBATCH = {
    "job-name": r"\w+",
    "nodes": r"\d+",
    "cpus-per-task": r"\d+",
    "gpus-per-node": r"\d+",
    "time": r"\d+:\d\d:\d\d",
    "ntasks-per-node": r"1",
    "exclusive": r"",
    "requeue": r"",
    "open-mode": r"append",
    "output": r"[\w%.-]+",
    "signal": r"B:USR1@\d+",
}


def sbatch_problems(text: str) -> list[str]:
    """Of a batch script for Slurm, which may read #SBATCH lines up to the first other line only (sbatch(1), 15.08)."""
    lines = text.splitlines()
    read = [line for line in lines if line.startswith("#SBATCH")]
    found = [] if lines[1 : 1 + len(read)] == read else ["#SBATCH lines must follow the first line, without a gap"]
    for line in read:
        for word in shlex.split(line.removeprefix("#SBATCH"), comments=True):
            key, _, value = word.removeprefix("--").partition("=")
            if not re.fullmatch(_SBATCH.get(key, "(?!)"), value):
                found.append(f"#SBATCH --{key}={value} is not an option of the form that Slurm knows")
    code = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    return (
        found
        + shell_problems(text, "the script")
        + _failing(
            {
                "the token must be on": "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=" in code,
                "the token must be made for this user alone": "umask 077" in code and "/dev/urandom" in code,
                "the token must go with the job": "trap tidy EXIT" in code and 'rm -rf "$private"' in code,
                "Ray's files must lie apart for each job": "RAYSTUDY_TEMP=/tmp/rs-$SLURM_JOB_ID" in code,
                "ports must differ between jobs": "20000 + SLURM_JOB_ID % 10000" in code,
                "nodes must be started by the script": code.count(NODE_SCRIPT) == 3,
                "a name must be one word of the shell": not re.search(
                    r'(?<!["\w={-])\$(?:STUDY|STORAGE|private)\b', code
                ),
            }
        )
    )


def docker_instructions(text: str) -> list[tuple[str, str]]:
    """(instruction, arguments) in order, comments left out and lines joined. docs.docker.com/reference/dockerfile."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", kept)
    return [
        (word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines()) if word
    ]


def docker_problems(text: str) -> list[str]:
    """Of the Dockerfile."""
    instructions = docker_instructions(text)
    words = [word for word, _ in instructions]
    known = {"ARG", "FROM", "RUN", "USER", "WORKDIR", "ENV", "COPY"}
    users = [rest for word, rest in instructions if word == "USER"]
    copied = [part for word, rest in instructions if word == "COPY" for part in rest.split()[:-1] if part[0] != "-"]
    settings = " ".join(rest for word, rest in instructions if word in ("ENV", "ARG"))
    ignored = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
    runs = [(place, rest) for place, (word, rest) in enumerate(instructions) if word == "RUN"]
    last_user = max((place for place, word in enumerate(words) if word == "USER"), default=len(words))
    bad = [f"{word} is not among the instructions allowed here" for word in words if word not in known]
    return bad + _failing(
        {
            "it must end as a user who is not root": bool(users) and users[-1].split(":")[0] not in ("root", "0"),
            "packages must be installed by that user": all(
                place > last_user for place, rest in runs if "pip install" in rest
            ),
            "packages must be pinned": all("-c constraints.txt" in rest for _, rest in runs if "pip install" in rest)
            and any("pip install" in rest for _, rest in runs),
            "nothing may be fetched by address": not any(
                re.search(r"\b(?:curl|wget) +\S*://|git clone", rest) for _, rest in runs
            ),
            "no secret may be an argument or a setting": not re.search(
                r"(?i)(?:password|secret|auth_token)\w*", settings
            ),
            "the token must be on": "RAY_AUTH_MODE=token" in settings,
            "CPU and CUDA must be one argument": "ARG DEVICE=cuda" in text and "whl/cpu" in text,
            "the base image must be Python 3.11": "ARG PYTHON=3.11" in text and "FROM python:${PYTHON}-slim" in text,
            "what is copied must be there and be sent": all(
                (ROOT / part).exists() and f"!{part}" in ignored for part in copied
            )
            and ignored[1] == "*",
            "torch must be pinned": "torch" in PINS,
            "what s3:// and gs:// need must be in it": "'.[all,gs]'" in text,
        }
    )


def script_problems(text: str) -> list[str]:
    """Of the script that starts a node."""
    return shell_problems(text, "the script") + _failing(
        {
            "the token must be on": "export RAY_AUTH_MODE=token" in text,
            "no node may start without a token": text.count("need_token\n") >= 3,
            "the job server must be on loopback unless asked": "${RAYSTUDY_DASHBOARD_HOST:-127.0.0.1}" in text,
        }
    )

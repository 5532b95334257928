"""What holds of every template below cluster/: found by glob, each with the check of its kind.

A check takes the file's text and gives what is wrong, so that a test can plant a mistake and see it named. The checks
of each tool's own fields lie beside this file; here is what all share: a token, no secret, one version of Ray, nothing
exposed, and the line that a cluster is for.
"""

import json
import re
import subprocess
from pathlib import Path

import yaml

from raystudy.distribute.jobs.submission import ENVIRONMENT
from tests.conftest import ROOT

CLUSTER = ROOT / "cluster"
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
RAY = PINS["ray"]
# The line of cluster/README.md: running it again makes only what is missing.
ENTRYPOINT = re.compile(r'python -m raystudy run (?:"\$STUDY"|\S+\.yaml) --storage (?:"\$STORAGE"|\S+/raystudy\S*)')
STOPPING = {name: value for name, value in ENVIRONMENT.items() if name.startswith("RAY_JOB_STOP_")}
SECRETS = {
    "a key of AWS": re.compile(r"\bA(?:KIA|SIA)[0-9A-Z]{16}\b"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY"),
    "a long hexadecimal word": re.compile(r"\b[0-9a-fA-F]{32,}\b"),
    "a secret's value": re.compile(
        r"""(?i)^[^#\n]*\b\w*(?:token|secret|password|secret_access_key)\b["']?\s*[:=]\s*["']?(?!null\b|/|\./|\$|token\b)\w[^\s:]{7,}""",
        re.MULTILINE,
    ),
}
NAMED_WILDCARDS = {"compose/compose.yaml": 1}  # the head's container: docker forwards the published port to it


def name_of(path: Path) -> str:
    return str(path.relative_to(CLUSTER))


def code_of(text: str) -> str:
    """The text without comments that fill a line."""
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def one_line(text: str) -> str:
    """The text with lines that go on in the next joined, and comment signs at their start left out."""
    return re.sub(r"\s*\\?\n\s*(?:#\s*)?", " ", text)


def shared_problems(name: str, text: str) -> list[str]:
    """What must hold in every file below cluster/ but the README."""
    found = [f"{kind} is written in it" for kind, pattern in SECRETS.items() if pattern.search(text)]
    for version in re.findall(r"(?:\bray|rayVersion: \")(\d+\.\d+\.\d+)", text):
        if version != RAY:
            found.append(f"Ray must be {RAY} as in constraints.txt, but is {version}")
    if re.findall(r"0\.0\.0\.0|\[::\]|--dashboard-host[= ]::", code_of(text)) != ["0.0.0.0"] * NAMED_WILDCARDS.get(
        name, 0
    ):
        found.append("something listens on every address")
    if re.search(r"(?i)\bRAY_AUTH_MODE\b\W*disabled|mode: disabled", text):
        found.append("the token is turned off")
    if re.search(r"LoadBalancer|NodePort|hostNetwork: true|privileged: true", text):
        found.append("something is exposed outside the cluster")
    return found


def launch_problems(text: str) -> list[str]:
    """What must hold where a person edits and starts a study."""
    found = []
    if not ENTRYPOINT.search(one_line(text)):
        found.append("the documented line `python -m raystudy run STUDY --storage URI` is not in it")
    for options in re.findall(r"ray job submit (.*?) -- ", one_line(text)):
        variables = re.search(r"--runtime-env-json '(\{.*\})'", options)
        if variables is None or not STOPPING.items() <= json.loads(variables[1])["env_vars"].items():
            found.append(f"a plain line must say how its job is stopped: {STOPPING}")
    if "# CHANGE" not in text:
        found.append("no line says what to change")
    for line in text.splitlines():
        if re.search(r"\b(?:REGISTRY|BUCKET|PROJECT|ACCOUNT|QUEUE)\b", line) and not _is_explained(line, text):
            found.append(f"a placeholder has no CHANGE beside it: {line.strip()}")
    return found


def _is_explained(line: str, text: str) -> bool:
    lines = text.splitlines()
    place = lines.index(line)
    return line.lstrip().startswith("#") or any("CHANGE" in near for near in lines[max(0, place - 2) : place + 1])


def plain_yaml(text: str) -> dict:
    """The only document in it."""
    return yaml.safe_load(text)


def shell_problems(script: str, name: str) -> list[str]:
    """What `bash -n` says of it."""
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, timeout=10)
    return [f"bash cannot read {name}: {done.stderr.strip()}"] if done.returncode or done.stderr else []

"""A study's job before it is submitted: its command, environment, place on the cluster, and the equal plain line.

The command is one shell line on the cluster, so every word is quoted. Nothing of this machine's environment goes along
but what is named. Knows nothing of HTTP.
"""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from raystudy.errors import SpecError

DriverOn = Literal["any", "head", "workers"]
STOP_SECONDS = 60
ENVIRONMENT = {
    "RAY_JOB_STOP_SIGNAL": "SIGINT",  # else SIGTERM, and SIGKILL 3 s later
    "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
_ELSEWHERE_CPUS = 0.1  # of a driver that may leave the head: it mostly waits; Ray wants a resource to place it by
_HEAD = {"node:__internal_head__": 0.001}  # which Ray gives to the head alone


@dataclass(frozen=True)
class Driver:
    """Where the driver runs and what it takes.

    Without a resource Ray starts a job on the head. `not_on`: the id of the node that it keeps off.
    """

    cpus: float = 0.0
    on: DriverOn = "head"
    not_on: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """As Ray's job client takes them."""
        cpus: dict[str, Any] = {"entrypoint_num_cpus": self.cpus} if self.cpus else {}
        if self.on == "head":
            return {**cpus, "entrypoint_resources": _HEAD} if cpus else {}
        if self.on == "any":
            return {"entrypoint_num_cpus": self.cpus or _ELSEWHERE_CPUS}
        return {**cpus, "entrypoint_label_selector": {"ray.io/node-id": f"!{self.not_on}"}}

    def __str__(self) -> str:
        place = {"head": "on the head", "any": "on any node", "workers": "on a node that is not the head"}[self.on]
        takes = self.options.get("entrypoint_num_cpus", 0)
        return f"{place}, takes {takes:g} CPUs of those that runs could have"


@dataclass(frozen=True)
class Submission:
    """One job. `forwarded`: names of variables whose values go along from this machine's environment.

    `endpoint`: the variable that says where the storage is reached, with its URL, which is no secret.
    """

    job_id: str
    words: tuple[str, ...]
    working_dir: Path
    driver: Driver = field(default_factory=Driver)
    forwarded: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    endpoint: Mapping[str, str] = field(default_factory=dict)

    @property
    def entrypoint(self) -> str:
        """The shell line."""
        return shlex.join(self.words)

    @property
    def options(self) -> dict[str, Any]:
        """What else Ray's job client is given."""
        variables = {**self._plain, **{name: os.environ[name] for name in self.forwarded}}
        return {
            "runtime_env": {"working_dir": str(self.working_dir), "env_vars": variables},
            "metadata": dict(self.metadata),
            **self.driver.options,
        }

    @property
    def _plain(self) -> dict[str, str]:
        """Variables whose values may be shown, and need no quoting."""
        return {**ENVIRONMENT, **{name: url for name, url in self.endpoint.items() if name not in self.forwarded}}

    def plain_line(self, url: str) -> str:
        """The equal `ray job submit` line; values of forwarded variables are filled in by the shell that runs it."""
        line = ["ray", "job", "submit", "--address", url, "--submission-id", self.job_id]
        line += ["--working-dir", str(self.working_dir), "--metadata-json", json.dumps(dict(self.metadata))]
        for option, value in self.driver.options.items():
            text = json.dumps(value) if isinstance(value, dict) else f"{value:g}"
            line += [f"--{option.replace('_', '-')}", text]
        # Single quotes all over, but around a forwarded variable, which the shell that runs the line fills in.
        runtime_env = "'" + json.dumps({"env_vars": self._plain})[:-2]
        runtime_env += "".join(f""", "{name}": "'"${name}"'\"""" for name in self.forwarded) + "}}'"
        return f"{shlex.join(line)} --runtime-env-json {runtime_env} -- {self.entrypoint}"


def run_words(
    python: str, study: str, storage: str, overrides: Sequence[str], options: Sequence[str] = ()
) -> tuple[str, ...]:
    """The command that runs a study in the job; `options`: more of those of `raystudy run`.

    Raises:
        SpecError: a word cannot stand in a command line.
    """
    path = study if not study.startswith("-") else f"./{study}"
    words = [python, "-m", "raystudy", "run", path, f"--storage={storage}"]
    words += [*(f"--set={override}" for override in overrides), *options]
    for word in words:
        if "\0" in word or any("\ud800" <= character <= "\udfff" for character in word):
            raise SpecError(f"the job's command must be UTF-8 text without NUL, but got {word!r}. Rename it")
    return tuple(words)


def check_forwarded(names: Sequence[str]) -> tuple[str, ...]:
    """The names of variables to send; raises SpecError for one that is not set here or is no name."""
    for name in names:
        if not (name.isascii() and name.isidentifier()):
            raise SpecError(f"--env must be the name of a variable, but got {name!r}. Its value is taken from here")
        if name not in os.environ:
            raise SpecError(f"--env must name a variable that is set here, but {name} is not. Export it first")
    return tuple(dict.fromkeys(names))

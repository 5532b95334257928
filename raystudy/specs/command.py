"""Anyone's own trainer as an engine: the command or the Python callable that makes a run, and its placeholders.

No shell is used: the command is a list of arguments. Knows nothing of processes.
"""

import difflib
import re
import string
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from raystudy.specs.base import Spec

# What may stand in braces in an argument, and what takes its place.
PLACEHOLDERS: Mapping[str, str] = {
    "spec": "path of spec.json, which says everything about the run",
    "data": "folder of the recipe's shards, or the path of an external recipe",
    "validation": "folders or paths of the validation sets, with commas between them",
    "out": "folder for checkpoints and result.json, the same at every attempt",
    "lr": "peak learning rate",
    "seed": "seed",
    "steps": "optimizer steps",
    "tokens": "tokens in all",
    "batch_tokens": "tokens of one step",
    "context": "tokens of one sequence",
    "recipe": "the recipe's name",
    "model": "the model's name",
    "run_id": "the run's id",
    "python": "the Python that raystudy itself runs in",
}
_CALLABLE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class CommandEngine(Spec):
    """A trainer of one's own: a command or a Python function that leaves `result.json` (docs/your-own-trainer.md).

    Of all this only `version` is part of a run's identity.
    """

    kind: Literal["command"]
    command: tuple[str, ...] | None = Field(
        default=None,
        strict=False,  # a list, behind the validator of `engine: torch`
        min_length=1,
        description="program and arguments, no shell; {spec} {lr} {seed} {data} {out} {steps} and others are filled in",
    )
    callable: str | None = Field(default=None, description="instead of a command: `package.module:function`")
    version: str = Field(
        min_length=1,
        max_length=500,
        description="what identifies the trainer: an image digest, a commit, a version. Change it with the trainer",
    )
    folder: str = Field(default=".", description="where it is started, relative to the study file")
    environment: dict[VariableName, str] = Field(
        default={},
        description="variables beside those that raystudy was started with. The study's copy on the storage holds "
        "them, reports and exports their names alone: pass secrets by the environment of `raystudy run`",
    )
    timeout_minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="after which an attempt is ended and has failed; null: none"
    )
    grace_seconds: float = Field(
        default=5, ge=0, le=3600, description="between SIGTERM and SIGKILL when it is ended, say for a checkpoint"
    )

    @model_validator(mode="after")
    def _is_runnable(self) -> "CommandEngine":
        if (self.command is None) == (self.callable is None):
            got = "both" if self.command is not None else "none"
            raise ValueError(f"exactly one of command, callable must be given, but got {got}")
        if self.callable is not None and not _CALLABLE.fullmatch(self.callable):
            raise ValueError(f"callable must be `package.module:function`, but got {self.callable!r}")
        if not self.version.strip():
            raise ValueError(f"version must not be blank, but got {self.version!r}")
        for argument in self.command or ():
            check_template(argument)
        return self


def check_template(template: str) -> None:
    """See that everything in braces is a placeholder.

    Raises:
        ValueError: it is not, or a brace stands alone.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"braces must hold a placeholder, but got {template!r} ({error}). {_BRACES}") from error
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if name not in PLACEHOLDERS or form or conversion:
            close = difflib.get_close_matches(name, PLACEHOLDERS, n=1)
            way_out = f"Did you mean {{{close[0]}}}?" if close else f"Known: {', '.join(PLACEHOLDERS)}. {_BRACES}"
            told = name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
            raise ValueError(f"braces must hold a placeholder, but got {{{told}}} in {template!r}. {way_out}")


_BRACES = "Write {{ and }} for braces that the trainer is to see"


def fill(template: str, values: Mapping[str, object]) -> str:
    """The argument with every placeholder replaced; floats as Python writes them."""
    return template.format_map({name: str(value) for name, value in values.items()})

"""Downstream tasks of a study file: multiple-choice items on which a trained decoder is measured, and their metrics.

A task here is a question put to models (as in lm-evaluation-harness), not the unit of scheduling. Knows nothing of
tokens, files' contents or models.
"""

from typing import Annotated, Literal

from pydantic import Field

from raystudy.specs.base import Name, Spec

# Every metric of a task is higher-is-better; a study's scores are its negative. Per item, then the mean over items.
TASK_METRICS: dict[str, str] = {
    "accuracy": "share of items",  # the right choice has the highest log-probability
    "accuracy-per-character": "share of items",  # the same, each choice's log-probability over its characters
    "probability": "probability",  # of the right choice among the choices: softmax over their log-probabilities
    "margin": "nats",  # log-probability of the right choice less that of the best wrong one
    "margin-per-character": "nats per character",
    "log-probability": "nats",  # of the right choice
    "log-probability-per-character": "nats per character",
}
DEFAULT_TASK_METRICS = ("accuracy", "probability")  # compared without being asked for


class ContinuationTask(Spec):
    """Made from a validation set, nothing downloaded: the right continuation against wrong ones of the same domain.

    An item is `context_tokens` tokens of a document; the right choice is the `continuation_tokens` that follow, the
    others stand in other documents of the set. Places are drawn by `seed` and the set's tokens alone.
    """

    kind: Literal["continuation"]
    validation: Name = Field(description="the validation set that it is made from")
    items: int = Field(default=100, gt=0, description="at most this many; each document gives at most one")
    choices: int = Field(default=4, ge=2, le=100)
    context_tokens: int = Field(default=24, gt=0)
    continuation_tokens: int = Field(default=8, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**31)


class JsonlTask(Spec):
    """Own items, a JSON object a line: `query` (text), `choices` (list of texts), `gold` (place of the right one).

    The harness reads the same file as a local task whose YAML says `doc_to_text: query`, `doc_to_choice: choices` and
    `doc_to_target: gold`.
    """

    kind: Literal["jsonl"]
    files: tuple[str, ...] = Field(min_length=1, description="paths or globs")
    delimiter: str = Field(default=" ", description="stands between the query and each choice")
    max_items: int | None = Field(default=None, gt=0, description="keep the first so many")


class HarnessTask(Spec):
    """A multiple-choice task of lm-evaluation-harness by its name there; needs the extra `tasks` where it is built.

    Its data come from the Hugging Face hub (or its cache), unless its own YAML in `include` names local files.
    """

    kind: Literal["harness"]
    task: str = Field(min_length=1, max_length=200, description="such as hellaswag, winogrande, arc_easy")
    include: str | None = Field(default=None, description="a folder with YAML files of further tasks")
    fewshot: int = Field(default=0, ge=0, le=100, description="solved examples in front of each item")
    max_items: int | None = Field(default=None, gt=0, description="keep the first so many")


DownstreamTask = Annotated[ContinuationTask | JsonlTask | HarnessTask, Field(discriminator="kind")]

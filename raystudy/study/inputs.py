"""The digests that stand for a study's data: what names its runs and reads their records."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StudyInputs:
    """Digests that stand for a study's data: shards by recipe, validation sets by name; vocabulary size.

    `leaked`: share of a validation set's documents that a recipe holds too, by recipe and set, where it is too much;
    None where it was not looked for.
    `tasks`: digests of the items of downstream tasks, by name. `sizes`: scored tokens and bytes by validation set.
    """

    shards: Mapping[str, str]
    validation: Mapping[str, str]
    vocabulary: int
    leaked: Mapping[str, Mapping[str, float]] | None = field(default_factory=dict)
    tasks: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)

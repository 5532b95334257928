"""What a study has settled once and for all: learning rates that rules gave, and the shards of its data.

A rule is known by what it rests on, never by a name. One that has only grown since it was resolved (a longer grid, a
seed, a recipe or a validation set more) keeps its learning rate; one that has been edited otherwise is a new rule.
Reads and writes nothing.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from raystudy.errors import StorageError
from raystudy.specs.base import digest
from raystudy.specs.point import Changes

FORMAT = "raystudy-frozen/1"


@dataclass(frozen=True)
class RuleBasis:
    """Everything that a rule's learning rate depends on besides losses.

    `fixed` is a digest of what cannot grow: ratio, way of choosing, model and training settings. The rest is sorted.
    """

    fixed: str
    shards: tuple[str, ...]
    lrs: tuple[float, ...]
    extend: int
    seeds: tuple[int, ...]
    validation: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Names the basis."""
        return digest(asdict(self))

    def has_grown_from(self, other: "RuleBasis") -> bool:
        """Whether this is `other`, or `other` with more of what may grow."""
        return (
            self.fixed == other.fixed
            and self.extend >= other.extend
            and all(
                set(getattr(self, part)) >= set(getattr(other, part))
                for part in ("shards", "lrs", "seeds", "validation")
            )
        )

    @property
    def size(self) -> int:
        """How much it rests on, to tell the latest of several that it has grown from."""
        return len(self.shards) + len(self.lrs) + len(self.seeds) + len(self.validation) + self.extend


@dataclass(frozen=True)
class FrozenRule:
    """A learning rate once resolved, with the other settings of the point it is from.

    `edge`: low or high, where the sweep behind it ended on its grid's edge.
    """

    lr: float
    edge: str | None
    basis: RuleBasis
    words: str = ""
    changes: Changes = ()


def find_frozen(rules: Mapping[str, FrozenRule], basis: RuleBasis) -> FrozenRule | None:
    """The rule that `basis` is, or has grown from; of several the one that rests on most."""
    found = [rule for rule in rules.values() if basis.has_grown_from(rule.basis)]
    return max(found, key=lambda rule: (rule.basis.size, rule.basis.digest), default=None)


@dataclass(frozen=True)
class FrozenData:
    """The shards that a recipe or validation set was built into, and the vocabulary of their tokens."""

    shards: str
    vocabulary: int
    words: str = ""


@dataclass(frozen=True)
class Frozen:
    """All that a study has frozen: rules by their basis's digest, data by their spec's."""

    rules: Mapping[str, FrozenRule] = field(default_factory=dict)
    data: Mapping[str, FrozenData] = field(default_factory=dict)

    def as_plain(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"format": FORMAT, **asdict(self)}


Part = TypeVar("Part", FrozenRule, FrozenData)
_RULE, _DATA = TypeAdapter(FrozenRule), TypeAdapter(FrozenData)


def read_plain(value: Any) -> Frozen:
    """What `as_plain` gave; nothing frozen for None.

    Raises:
        StorageError: it is something else.
    """
    if value is None:
        return Frozen()
    try:
        if value["format"] != FORMAT:
            raise ValueError(f"its format is {value['format']!r}")
        rules = {str(name): _checked(_RULE, rule) for name, rule in value["rules"].items()}
        data = {str(name): _checked(_DATA, item) for name, item in value["data"].items()}
        if not all(math.isfinite(rule.lr) and rule.lr > 0 for rule in rules.values()):
            raise ValueError("a learning rate is not above 0")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StorageError(f"it is foreign ({error})") from error
    return Frozen(rules, data)


def _checked(kind: TypeAdapter[Part], value: Any) -> Part:
    try:
        return kind.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def merged(ours: Frozen, theirs: Frozen) -> Frozen | None:
    """Both together; None where they settle the same thing differently. What it is called there does not count."""
    if _differs(ours.rules, theirs.rules) or _differs(ours.data, theirs.data):
        return None
    return Frozen({**theirs.rules, **ours.rules}, {**theirs.data, **ours.data})


def _differs(ours: Mapping[str, Part], theirs: Mapping[str, Part]) -> bool:
    common = ours.keys() & theirs.keys()
    return any(replace(ours[name], words="") != replace(theirs[name], words="") for name in common)

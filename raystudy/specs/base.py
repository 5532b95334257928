"""What every spec shares: frozen, checked, canonical. Knows nothing of files or of training.

Identity rests on `canonical_json`: keys sorted, floats rounded to 6 significant digits, fields equal
to their default left out. A new field with a default therefore moves no existing id, and a default
is never changed.
"""

import hashlib
import json
import math
import unicodedata
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict

_MAX_NAME_CHARACTERS = 200
# They turn the direction of whatever is printed after them; no script needs them in a name.
_BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
FLOAT_DIGITS = 6  # significant digits of a float inside an identity


class Spec(BaseModel):
    """Base of all parts of a study file: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some fields changed, unchecked; what was worked out from the original is not taken along."""
        copied = super().model_copy(update=update, deep=deep)
        for worked_out in [name for name in copied.__dict__ if name not in type(self).model_fields]:
            del copied.__dict__[worked_out]
        return copied

    @cached_property
    def canonical_once(self) -> dict[str, Any]:
        """What stands for this part in the identity of a whole: parts are frozen, and shared by thousands of runs."""
        return _canonical_fields(self)


def check_name(name: str) -> str:
    """Refuse names that could act as paths or break a line; any script is welcome."""
    if not name.strip():
        raise ValueError("a name must not be empty")
    if len(name) > _MAX_NAME_CHARACTERS:
        raise ValueError(f"a name has at most {_MAX_NAME_CHARACTERS} characters, this one {len(name)}")
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in name):
        raise ValueError("a name must not hold control characters or line breaks")
    if _BIDI_CONTROLS & set(name):
        raise ValueError(
            "a name must not hold characters that turn the direction of text (U+202A to U+202E, U+2066 to U+2069)"
        )
    if "/" in name or "\\" in name or ".." in name:
        raise ValueError("a name must not hold '/', '\\' or '..'")
    return name


Name = Annotated[str, AfterValidator(check_name)]


@lru_cache(maxsize=256)
def _defaults(kind: type[Spec]) -> dict[str, tuple[bool, Any]]:
    """Of every field: whether it must be given, and its default."""
    fields = kind.model_fields.items()
    return {name: (field.is_required(), field.get_default(call_default_factory=True)) for name, field in fields}


def _canonical_fields(spec: Spec) -> dict[str, Any]:
    values = ((name, getattr(spec, name), *default) for name, default in _defaults(type(spec)).items())
    return {name: _canonical(value) for name, value, required, default in values if required or value != default}


def _canonical(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.canonical_once
    if isinstance(value, dict):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float):
        return round_significant(value)
    return value


def round_significant(value: float, digits: int = FLOAT_DIGITS) -> float:
    """`value` at `digits` significant digits; raises ValueError for NaN and infinities."""
    if not math.isfinite(value):
        raise ValueError(f"{value} has no place in an identity")
    return float(f"{value:.{digits}g}")


def canonical_json(value: Any) -> str:
    """The one text that stands for `value` (specs, dicts, lists, scalars) in an identity."""
    plain = _canonical_fields(value) if isinstance(value, Spec) else _canonical(value)
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """First 32 hexadecimal digits (128 bits) of the SHA-256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:32]

"""What every spec shares: frozen, checked, canonical. Knows nothing of files or of training.

Identity rests on `canonical_json`: keys sorted, floats rounded to 6 significant digits, fields equal
to their default left out. A new field with a default therefore moves no existing id, and a default
is never changed.
"""

import hashlib
import json
import math
import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

_MAX_NAME_CHARACTERS = 200
FLOAT_DIGITS = 6  # significant digits of a float inside an identity


class Spec(BaseModel):
    """Base of all parts of a study file: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def check_name(name: str) -> str:
    """Refuse names that could act as paths or break a line; any script is welcome."""
    if not name.strip():
        raise ValueError("a name must not be empty")
    if len(name) > _MAX_NAME_CHARACTERS:
        raise ValueError(f"a name has at most {_MAX_NAME_CHARACTERS} characters, this one {len(name)}")
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in name):
        raise ValueError("a name must not hold control characters or line breaks")
    if "/" in name or "\\" in name or ".." in name:
        raise ValueError("a name must not hold '/', '\\' or '..'")
    return name


Name = Annotated[str, AfterValidator(check_name)]


def _canonical(value: Any) -> Any:
    if isinstance(value, Spec):
        return {
            name: _canonical(getattr(value, name))
            for name, field in type(value).model_fields.items()
            if field.is_required() or getattr(value, name) != field.get_default(call_default_factory=True)
        }
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
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """First 32 hexadecimal digits (128 bits) of the SHA-256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:32]

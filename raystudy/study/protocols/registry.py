"""Which class answers for which kind of protocol. Adding a kind: a spec, a file, a line here."""

from collections.abc import Callable
from typing import Any

from raystudy.specs.study import StudySpec
from raystudy.study.protocols.base import ProtocolKind
from raystudy.study.protocols.given import Known, Table
from raystudy.study.protocols.likeness import Likeness
from raystudy.study.protocols.probing import GradientAlignment, Sharpness
from raystudy.study.protocols.training_kinds import TRAINING_KINDS

PROTOCOL_KINDS: dict[str, Callable[[str, Any], ProtocolKind]] = {
    **TRAINING_KINDS,
    "gradient-alignment": GradientAlignment,
    "sharpness": Sharpness,
    "likeness": Likeness,
    "known": Known,
    "table": Table,
}


def protocols_of(study: StudySpec) -> dict[str, ProtocolKind]:
    """The study's protocols by name, in its order; one that names several steps is one protocol for each."""
    found: dict[str, ProtocolKind] = {}
    for name, spec in study.protocols.items():
        for step in getattr(spec, "at_steps", None) or (None,):
            own = name if step is None else f"{name}@step{step}"
            at_step = spec if step is None else spec.model_copy(update={"step": step, "at_steps": None})
            found[own] = PROTOCOL_KINDS[spec.kind](own, at_step)
    return found

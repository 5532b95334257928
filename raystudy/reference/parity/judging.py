"""The verdict: both trainers in every case, quantity by quantity, and what their difference is called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from raystudy.artifacts.shards import RecipeView
from raystudy.reference.parity.cases import (
    OWN_PROBE,
    PROBE,
    STUDY,
    Case,
    own_probe_case,
    probe_case,
    probe_rows,
    tiny_case,
)
from raystudy.reference.parity.naming import Known, Replays, has_no_masters, known_differences, named_evaluation
from raystudy.reference.parity.observed import Arrays, Observed
from raystudy.reference.parity.observing import observe_in_one_process
from raystudy.reference.parity.quantities import EVALUATION_BOUND, Row, compare, document_distance
from raystudy.reference.parity.replays import DIFFERENCES, initial_weights, replay
from raystudy.train.micro_batches import release_memory
from raystudy.train.run import ValidationSets

Verdict = Literal["same", "different", "undecided"]


@dataclass(frozen=True)
class Parity:
    """How the two trainers of one model compare. `named`: what the reference behaves like, in words."""

    model: str
    rows: list[Row]
    known: list[Known]
    named: list[str]

    @property
    def verdict(self) -> Verdict:
        """Different if any quantity is or its difference is known; undecided if any cannot be decided."""
        if self.named or any(row.is_same is False for row in self.rows):
            return "different"
        return "undecided" if any(row.is_same is None for row in self.rows) else "same"

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        return f"{self.model}: {self.verdict}: {_SENTENCES[self.verdict](self)}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "model": self.model,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "named": self.named,
            "rows": [row.as_dict() for row in self.rows],
            "known_differences": [known.as_dict() for known in self.known],
        }


def _same(parity: Parity) -> str:
    unseen = [known.words for known in parity.known if not known.would_show]
    told = "train/ and reference/ are the same trainer within the bounds above"
    return told + (f"; not visible here: {'; '.join(unseen)}" if unseen else "")


def _different(parity: Parity) -> str:
    if parity.named:
        return f"the reference behaves like training with {'; or with '.join(parity.named)}"
    apart = [f"{row.quantity} ({row.case})" for row in parity.rows if row.is_same is False]
    asked = [known for known in parity.known if known.distance is not None]
    nearest = min(asked, key=lambda known: known.distance or 0.0, default=None)
    told = f"in {', '.join(apart[:3])}; none of the known differences gives the reference's weights"
    return told + (f" (the nearest: {nearest.words})" if nearest else "")


def _undecided(parity: Parity) -> str:
    ends = [row for row in parity.rows if row.quantity == "end"]
    if ends:
        told = "; ".join(f"{row.case}: train/ {row.train}, reference/ {row.reference}" for row in ends)
        return f"{told}. Choose a smaller model, or a learning rate at which both train"
    open_rows = [f"{row.quantity} ({row.case})" for row in parity.rows if row.is_same is None]
    return (
        f"{', '.join(open_rows[:3])} cannot be decided in this precision. Ask again with fewer --steps, or with "
        f"--set training.precision=fp32"
    )


_SENTENCES = {"same": _same, "different": _different, "undecided": _undecided}


class OneProcess:
    """What `train` does in the cases of one model: made once, whatever it is compared with.

    `seen`: what it did in every one of `cases`, where another process has made them.
    """

    def __init__(
        self,
        study: Case,
        view: RecipeView,
        validation: ValidationSets,
        device: str,
        *,
        cases: Sequence[Case] = (),
        seen: Mapping[str, Observed] | None = None,
    ) -> None:
        self._view, self._validation, self._device = view, validation, device
        self.start: Arrays = initial_weights(study)
        self.cases = list(cases) or self._make_cases(study)
        self._probe = next(case for case in self.cases if case.name == PROBE)
        self._seen: dict[str, Observed] = dict(seen or {})
        self._exact: Observed | None = None
        self.replays = Replays(self._probe, view, device, self.start)

    def _make_cases(self, study: Case) -> list[Case]:
        settings = study.run.settings.model_copy(
            update={"batch_sequences": probe_rows(study), "clip": None, "steps": 2}
        )
        first = Case(PROBE, study.run.model_copy(update={"settings": settings, "precision": "fp32"}), study.engine)
        norm = _norm(replay(first, self._view, self._device).first_gradient)
        probe = probe_case(study, norm, sum(array.size for array in self.start.values()))
        own = own_probe_case(study, probe)
        return [study, tiny_case(study), probe, *([own] if own else [])]

    def _observe(self, case: Case) -> Observed:
        return observe_in_one_process(case, self._view, self._validation, self._device)

    def seen(self, case: Case) -> Observed:
        """What `train` did in a case."""
        if case.name not in self._seen:
            self._seen[case.name] = self._observe(case)
        return self._seen[case.name]

    @staticmethod
    def release() -> None:
        """Give back the device's memory, which the reference's workers need."""
        release_memory()

    def _exact_of(self, case: Case) -> Observed | None:
        """`train` in FP32, where the study's case computes in fewer digits."""
        if case.name == OWN_PROBE:
            return self.seen(self._probe)
        if case.name != STUDY or case.run.precision == "fp32":
            return None
        if self._exact is None:
            self._exact = self._observe(Case(STUDY, case.run.model_copy(update={"precision": "fp32"}), case.engine))
        return self._exact

    def judge(self, model: str, reference: Mapping[str, Observed]) -> Parity:
        """Compare with what the reference did in each case."""
        rows: list[Row] = []
        for case in self.cases:
            rows += compare(case, self.start, self.seen(case), reference[case.name], self._exact_of(case))
        known = [] if self.seen(self._probe).problem else self._known(rows, reference)
        named = [each.words for each in known if each.is_it]
        masters = DIFFERENCES["master precision"].words
        seen = {case.name: self.seen(case) for case in self.cases}
        if has_no_masters(seen, reference) and masters not in named:
            named.append(masters)
        for case in self.cases:
            named += self._evaluations(case, reference[case.name])
        is_same = all(row.is_same for row in rows)
        return Parity(model, rows, known, [] if is_same else list(dict.fromkeys(named)))

    def _known(self, rows: list[Row], reference: Mapping[str, Observed]) -> list[Known]:
        """The known differences, looked for in the first probe that is not the same."""
        for name in (PROBE, OWN_PROBE):
            own = [row for row in rows if row.case == name]
            if not all(row.is_same for row in own):
                band = max((row.bound for row in own if row.quantity.startswith("weights")), default=0.0)
                return known_differences(self.replays, reference[name], is_same=False, band=band)
        return known_differences(self.replays, reference[PROBE], is_same=True)

    def _evaluations(self, case: Case, reference: Observed) -> list[str]:
        ours = self.seen(case).before
        if not reference.before or not ours:
            return []
        if max(document_distance(each, reference.before.get(key)) for key, each in ours.items()) <= EVALUATION_BOUND:
            return []
        return named_evaluation(ours, reference.before, case.engine.workers)


def _norm(arrays: Arrays) -> float:
    return float(sum(float((array.astype("float64") ** 2).sum()) for array in arrays.values()) ** 0.5)

"""What a rank of the tests' own groups runs: `python -m tests.reference.cases STORAGE VIEW VALIDATION OUT GROUP`.

Every case trains with real DeepSpeed; rank 0 writes what was seen to OUT, as JSON, which the tests judge.
"""

import gc
import itertools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from raystudy.artifacts.checkpoints import step_checkpoints
from raystudy.artifacts.shards import RecipeView, open_tokens, open_view
from raystudy.artifacts.weights import write_weights
from raystudy.errors import RaystudyError
from raystudy.reference import fitting
from raystudy.reference.checkpoint import Checkpoints
from raystudy.reference.evaluation import evaluate_on_ranks
from raystudy.reference.run import train_on_ranks
from raystudy.reference.world import World, join, leave
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.presets import PRESETS
from raystudy.specs.reading import Asked, Reading
from raystudy.specs.run import TrainRun
from raystudy.specs.training import Optimizer, Sgd
from raystudy.train.decoder import Decoder
from raystudy.train.evaluation import Evaluation, ValidationDocuments
from raystudy.train.on_the_way import Keeping
from raystudy.train.run import Outcome, ValidationSets
from tests.train.test_training import a_run

WAIT_SECONDS = 90  # that an operation waits for other ranks
BATCH = 7  # sequences: no number of workers here divides it
MICRO_BATCH_TOKENS = 32  # two sequences
STEPS, SHORT = 50, 10
STAGES = (0, 1, 2, 3)
FAMILIES = {"pythia": 1, "opt": 2, "llama": 3}  # gpt2 is everywhere else; at which stage each trains
ALL_FAMILIES, PRECISIONS = ("gpt2", *FAMILIES), ("fp32", "bf16-autocast", "bf16-master")
SMALL = {"layers": 2, "width": 16, "heads": 2, "context": 16}
MUP = {"width": 32, "mup_base_width": 16, "mup_base_heads": 2}
SGD = Sgd(kind="sgd", momentum=0.9, weight_decay=0.1)
NOT_PERSISTENT = {"zero_optimization": {"stage3_param_persistence_threshold": 100}}  # else tiny models are not cut


def a_case(view: str, steps: int = STEPS, *, optimizer: Optimizer | None = None, **changed: Any) -> TrainRun:
    """A run of the cases; `changed`: its learning rate, precision, or fields of its model."""
    own = {name: changed.pop(name) for name in ("lr", "precision") if name in changed}
    run = a_run(view, steps=steps, lr=own.pop("lr", 1e-2), **changed)
    settings = run.settings.model_copy(
        update={"batch_sequences": BATCH} | ({"optimizer": optimizer} if optimizer else {})
    )
    return run.model_copy(update={"settings": settings, "engine": "deepspeed", **own})


def a_family(view: str, family: str, steps: int = 20, **changed: Any) -> TrainRun:
    """A small run of one published family."""
    return a_case(view, steps, **{**PRESETS[family].fields, **SMALL}, **changed)


def documents_with_edges(documents: ValidationDocuments) -> ValidationDocuments:
    """Overlapping windows, a document of one token that has nothing to score, and an odd number of documents."""
    tokens = [documents.tokens[0], documents.tokens[0][:1], *documents.tokens[1:6]]
    return ValidationDocuments(tokens, [200] * len(tokens), overlap=0.5)


def sums_of(evaluation: Evaluation) -> dict[str, list[float]]:
    return {name: np.asarray(values).tolist() for name, values in vars(evaluation).items()}


class Cases:
    """The cases of one group, on one rank."""

    def __init__(self, world: World, view: RecipeView, validation: ValidationSets, out: Path) -> None:
        self.world, self.view, self.validation, self.out = world, view, validation, out
        self.digest = view.digest

    def engine(self, stage: int, **fields: Any) -> DeepSpeedEngine:
        """An engine of the cases: several micro-batches, the last of them unequal."""
        own = {"micro_batch_tokens": MICRO_BATCH_TOKENS, "config": NOT_PERSISTENT} | fields
        return DeepSpeedEngine(kind="deepspeed", workers=self.world.size, zero_stage=stage, **own)

    def train(self, name: str, run: TrainRun, engine: DeepSpeedEngine, **more: Any) -> Outcome | None:
        """Train, and let rank 0 write what came of it as `<name>.json`."""
        outcome = train_on_ranks(run, self.view, self.validation, engine, self.world, **more)
        if outcome is not None:
            self.write(name, told(outcome))
        return outcome

    def write(self, name: str, found: Any) -> None:
        if self.world.is_first:
            (self.out / f"{name}.json").write_text(json.dumps(found))

    def folder(self, name: str) -> Path:
        return self.out / "runs" / name

    def pair(self) -> None:
        """All that two ranks are asked."""
        self.stages()
        self.precisions()
        for family, stage in FAMILIES.items():
            self.train(f"family-{family}", a_family(self.digest, family), self.engine(stage))
        for stage in (1, 3):
            mup = a_case(self.digest, 20, optimizer=SGD, lr=1e-1, **MUP)
            self.train(f"sgd-mup-{stage}", mup, self.engine(stage))
        self.means()
        self.refused()
        self.measured()
        self.train("diverged", a_case(self.digest, 20, lr=1e5), self.engine(2))
        self.checkpoints()
        self.evaluation()
        self.readings()

    def stages(self) -> None:
        for stage in STAGES:
            outcome = self.train(f"stage-{stage}", a_case(self.digest), self.engine(stage))
            if outcome is not None:
                write_weights(self.folder(f"stage-{stage}"), STEPS, outcome.weights)

    def precisions(self) -> None:
        for stage in STAGES:
            self.train(f"bf16-master-{stage}", a_case(self.digest, precision="bf16-master"), self.engine(stage))
            tiny = a_case(self.digest, 4, precision="bf16-master", lr=1e-6)
            self.train(f"tiny-rate-{stage}", tiny, self.engine(stage))
        self.train("bf16-autocast", a_case(self.digest, precision="bf16-autocast"), self.engine(1))

    def means(self) -> None:
        """What must not change results: recomputed activations, offload, whole shares."""
        ways: Mapping[str, Mapping[str, Any]] = {
            "recomputed": {"activation_checkpointing": True},
            "offloaded": {"offload": "optimizer"},
            "offloaded-weights": {"offload": "optimizer-and-weights"},
            "whole-shares": {"micro_batch_tokens": "auto"},
        }
        for name, fields in ways.items():
            self.train(f"means-{name}", a_case(self.digest, SHORT), self.engine(3, **fields))

    def refused(self) -> None:
        """A configuration that DeepSpeed does not take."""
        engine = self.engine(1, config={"zero_optimization": {"reduce_bucket_size": "many"}})
        try:
            self.train("refused", a_case(self.digest, SHORT), engine)
        except RaystudyError as error:
            self.write("refused-config", self.world.gather_everywhere(str(error)))

    def measured(self) -> None:
        """Parts of a batch as memory allows, where it is measured: here a memory that holds two sequences."""
        taken: list[int] = []

        def bytes_of(action: Callable[[], None], _: str) -> int:
            action()
            taken.append(1)
            return 100 + 1000 * (1 if len(taken) < 3 else 2)

        for stage in STAGES:
            taken.clear()
            fakes = {"_is_measured": lambda _: True, "_bytes_of": bytes_of, "_free_bytes": lambda _: 2500}
            with patch.multiple(fitting, **fakes):
                run = a_case(self.digest, SHORT)
                self.train(f"measured-{stage}", run, self.engine(stage, micro_batch_tokens="auto"))
            self.write(f"left-{stage}", sum(type(thing) is Decoder for thing in gc.get_objects()))

    def checkpoints(self) -> None:
        """A run to its end, then again from the older of its checkpoints: the newer one has been spoilt."""
        asked: list[tuple[str, int, TrainRun]] = [
            *((f"stage-{stage}", stage, a_case(self.digest, SHORT)) for stage in STAGES),
            *((f"bf16-{stage}", stage, a_case(self.digest, SHORT, precision="bf16-master")) for stage in (0, 1)),
            ("sgd", 2, a_case(self.digest, SHORT, optimizer=SGD)),
        ]
        for name, stage, run in asked:
            engine = self.engine(stage, checkpoint_steps=3, checkpoint_minutes=None)
            folder = self.folder(name)
            self.train(f"whole-{name}", run, engine, checkpoints=self.kept(folder, run, engine))
            self.write(f"kept-{name}", [path.name for path in step_checkpoints(folder)])
            if self.world.is_first:
                newest = step_checkpoints(folder)[0]
                newest.write_bytes(newest.read_bytes()[:-1] + b"?")
            self.world.barrier()
            kept = self.kept(folder, run, engine)
            self.train(f"resumed-{name}", run, engine, checkpoints=kept)
            self.write(f"note-{name}", kept.note)

    def kept(self, folder: Path, run: TrainRun, engine: DeepSpeedEngine) -> Checkpoints:
        return Checkpoints(folder, run.run_id, engine, self.world)

    def evaluation(self) -> None:
        (documents,) = self.validation.values()
        model = Decoder(a_case(self.digest).model, seed=3)
        for name, each in {"plain": documents, "edges": documents_with_edges(documents)}.items():
            self.write(f"evaluation-{name}", sums_of(evaluate_on_ranks(model, each, 16, self.world)))

    def readings(self) -> None:
        """Readings on the way, and one that rank 0 cannot keep: both ranks must hear of it."""
        read: list[tuple[int, float | None]] = []
        keep = Keeping(
            read=lambda found: read.append((found.reading.step, _loss(found.evaluations))),
            branch_point=lambda *_: None,
        )
        run, asked = a_case(self.digest, SHORT), Asked(readings=(Reading(step=3), Reading(step=SHORT)))
        self.train("read", run, self.engine(2), asked=asked, keeping=keep)
        self.write("readings", read)

        def fail(_: object) -> None:
            raise OSError("no room")

        try:
            full = Keeping(read=fail, branch_point=keep.branch_point)
            train_on_ranks(run, self.view, self.validation, self.engine(2), self.world, asked=asked, keeping=full)
        except (OSError, RaystudyError) as error:
            said = self.world.gather_everywhere(f"{type(error).__name__}: {error}")
            self.write("not-kept", said)

    def matrix(self) -> None:
        """Every family at every stage in every precision; of `tests.slow.reference`."""
        for family, precision, stage in itertools.product(ALL_FAMILIES, PRECISIONS, STAGES):
            run = a_family(self.digest, family, STEPS, precision=precision)
            self.train(f"{family}-{precision}-{stage}", run, self.engine(stage))

    def other(self) -> None:
        """Another number of ranks: the same run, and on from what two ranks left, as the study says."""
        run = a_case(self.digest, SHORT)
        self.train(f"world-{self.world.size}", run, self.engine(2))
        folder = self.folder("stage-3")
        for what in ("refuse", "restart", "continue"):
            engine = self.engine(3, checkpoint_minutes=None, on_other_world_size=what)
            kept, name = self.kept(folder, run, engine), f"{what}-{self.world.size}"
            try:
                self.train(name, run, engine, checkpoints=kept)
                self.write(f"note-{name}", kept.note)
            except RaystudyError as error:
                self.write(f"error-{name}", self.world.gather_everywhere(str(error)))


def told(outcome: Outcome) -> dict[str, Any]:
    """What of an outcome the tests judge, as JSON holds it."""
    kept = ("status", "cause", "curve", "moved", "epochs", "data_order", "made", "seconds")
    losses = {f"{when}_loss": _loss(getattr(outcome, when)) for when in ("initial", "final")}
    return {name: getattr(outcome, name) for name in kept} | losses


def _loss(evaluations: Mapping[str, Evaluation]) -> float | None:
    losses = [evaluation.nats_per_token for evaluation in evaluations.values()]
    return float(np.mean(losses)) if losses else None


def main(storage: str, view: str, validation: str, out: str, group: str) -> None:
    world = join("cpu", WAIT_SECONDS)
    shard = open_tokens(Path(storage), validation)
    documents = ValidationDocuments(shard.documents(), shard.document_bytes.tolist())
    cases = Cases(world, open_view(Path(storage), view), {validation: documents}, Path(out))
    asked: dict[str, Callable[[], None]] = {"pair": cases.pair, "other": cases.other, "matrix": cases.matrix}
    asked |= {"measured": cases.measured, "refused": cases.refused}
    asked[group]()
    leave(world)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""One reference run, made by all ranks of a group: what `train.run.train` does in one process. No storage, no ray.

Every rank calls the same functions with the same spec. Losses do not depend on the number of ranks, the ZeRO stage,
offload or micro-batches beyond rounding.
"""

import time
from functools import partial

from raystudy.artifacts.shards import RecipeView
from raystudy.reference import beat
from raystudy.reference.checkpoint import Checkpoints
from raystudy.reference.evaluation import evaluate_all_on_ranks
from raystudy.reference.fitting import rows_at_once
from raystudy.reference.start import prepare_deepspeed
from raystudy.reference.states import arrays_of
from raystudy.reference.training import ReferenceTraining
from raystudy.reference.world import World
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.reading import Asked
from raystudy.specs.run import TrainRun
from raystudy.train.decoder import Decoder
from raystudy.train.divergence import has_risen, not_finite
from raystudy.train.evaluation import Evaluation
from raystudy.train.moved import moved
from raystudy.train.on_the_way import Keeping, Read, stops_of, weights_of
from raystudy.train.process import device_name, peak_memory, reset_state
from raystudy.train.run import Outcome, ValidationSets, unigram_floors
from raystudy.train.training import first_sequences


def train_on_ranks(
    run: TrainRun,
    view: RecipeView,
    validation: ValidationSets,
    engine: DeepSpeedEngine,
    world: World,
    *,
    checkpoints: Checkpoints | None = None,
    asked: Asked | None = None,
    keeping: Keeping | None = None,
) -> Outcome | None:
    """Train `run` on `view` by all ranks of `world`, evaluating it before the first and after the last step.

    To be called by all ranks alike; what is `asked` on the way goes to rank 0's `keeping`.

    Returns:
        The outcome on rank 0, None elsewhere.

    Raises:
        RaystudyError: what `checkpoints` refuses, or what another rank failed in where the others wait for it.
    """
    started = time.perf_counter()
    reset_state(run.seed)
    prepare_deepspeed(world.local_rank, world.device)
    initial = evaluate_all_on_ranks(_plain(run, world), validation, run.model.context, world)
    evaluated = time.perf_counter() - started
    rows = rows_at_once(run, view, engine, world)
    beat.compute(rows)
    training = ReferenceTraining(run, view, engine, world, rows)
    try:
        training.watch.add({"evaluation": evaluated})
        made = _Making(run, view, validation, world, training, asked or Asked(), keeping, engine)
        return made.go(initial, checkpoints, started)
    finally:
        training.close()


def _plain(run: TrainRun, world: World) -> Decoder:
    return world.together(lambda: Decoder(run.model, run.seed).to(world.device))


class _Making:
    """One run being made, on this rank."""

    def __init__(
        self,
        run: TrainRun,
        view: RecipeView,
        validation: ValidationSets,
        world: World,
        training: ReferenceTraining,
        asked: Asked,
        keeping: Keeping | None,
        engine: DeepSpeedEngine,
    ) -> None:
        self._run, self._view, self._validation, self._world = run, view, validation, world
        self._training, self._asked, self._keeping, self._engine = training, asked, keeping, engine
        self._floors = unigram_floors(view, validation)

    def go(self, initial: dict[str, Evaluation], checkpoints: Checkpoints | None, started: float) -> Outcome | None:
        """Take all steps; the outcome on rank 0."""
        training, steps = self._training, self._run.settings.steps
        if checkpoints is not None:
            checkpoints.restore(training)
            training.keep = lambda: training.watch.add({"checkpoint": checkpoints.keep_if_due(training)})
        for stop in stops_of(self._asked, training.step, steps):
            if not training.problem:
                training.advance(stop)
            self._stop(stop)
        if not training.problem:
            training.advance(steps)
        model = self._consolidated()
        final = {} if training.problem else self._evaluate(model)
        cause = training.problem or not_finite(final) or has_risen(training.curve, training.curve[0]["loss"])
        if not cause:
            self._read(steps, model, final)
        peaks = self._world.gather(peak_memory(self._world.device))
        names = self._world.gather(device_name(self._world.device))
        if peaks is None or names is None:
            return None
        seconds = training.watch.seconds()
        return Outcome(
            status="diverged" if cause else "finished",
            curve=training.curve,
            initial=initial,
            final={} if not_finite(final) else final,
            unigram=self._floors,
            moved=self._moved(model, initial, final),
            data_order=training.stream.fingerprint,
            epochs=training.stream.epochs(steps * self._run.settings.batch_sequences),
            weights=weights_of(model),
            seconds={
                **seconds,
                "earlier": training.seconds_before,
                "total": training.seconds_before + time.perf_counter() - started,
            },
            cause=cause,
            made={
                "workers": self._world.size,
                "zero_stage": self._engine.zero_stage,
                "offload": self._engine.offload,
                "activation_checkpointing": self._engine.activation_checkpointing,
                "precision": self._run.precision,
                "micro_batch_sequences": training.rows,
                "tokens_per_second": training.step * self._run.num_tokens / steps / seconds["training"],
                "peak_memory": max(peaks, key=lambda peak: int(peak["bytes"])),
                "device_name": ", ".join(dict.fromkeys(names)),
                "resumed_from_step": checkpoints.resumed_from if checkpoints else 0,
            },
        )

    def _consolidated(self) -> Decoder:
        """A plain model with the FP32 masters, on every rank; sees whether they are finite."""
        model = _plain(self._run, self._world)
        if not self._training.copy_weights(model) and not self._training.problem:
            self._training.problem = f"weights were not finite after step {self._training.step - 1}"
        return model

    def _evaluate(self, model: Decoder) -> dict[str, Evaluation]:
        began = time.perf_counter()
        found = evaluate_all_on_ranks(model, self._validation, self._run.model.context, self._world)
        self._training.watch.add({"evaluation": time.perf_counter() - began})
        return found

    def _stop(self, step: int) -> None:
        """Make what is asked for after `step` steps; what had diverged by then has no evaluation."""
        training = self._training
        model = self._consolidated()
        is_whole = not training.problem and not has_risen(training.curve, training.curve[0]["loss"])
        if any(reading.step == step for reading in self._asked.readings):
            self._read(step, model, self._evaluate(model) if is_whole else {})
        if step in self._asked.checkpoints and not training.problem:
            arrays = arrays_of(training.masters)
            if self._keeping is not None:
                self._world.first(partial(self._keeping.branch_point, step, arrays))

    def _read(self, step: int, model: Decoder, found: dict[str, Evaluation]) -> None:
        """Hand over the readings of one step; `found` is empty where it had diverged."""
        is_whole = bool(found) and not not_finite(found)
        for reading in self._asked.readings:
            if reading.step == step:
                empty = Read(reading, {}, {}, {})
                read = Read(reading, weights_of(model), found, self._floors) if is_whole else empty
                if self._keeping is not None:
                    self._world.first(partial(self._keeping.read, read))

    def _moved(self, model: Decoder, initial: dict[str, Evaluation], final: dict[str, Evaluation]) -> dict[str, float]:
        run, device = self._run, self._world.device
        before = Decoder(run.model, run.seed).to(device)
        weights = {name: weight.detach() for name, weight in before.named_parameters()}
        tokens = first_sequences(run, self._view, self._training.stream).to(device)
        return moved(model, weights, initial, final, run.settings, tokens)

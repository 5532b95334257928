"""A reference run in progress: `train`'s model, batches, optimizer groups and schedule, stepped by DeepSpeed.

Each rank computes on a contiguous share of every batch. Shares and micro-batches may be unequal: each is weighted by
its sequences, so that the gradient is that of the mean over all tokens of the batch. Every method must be called by
all ranks alike.
"""

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from raystudy.artifacts.shards import RecipeView
from raystudy.errors import RaystudyError
from raystudy.reference import beat
from raystudy.reference.config import deepspeed_config
from raystudy.reference.start import end, initialize
from raystudy.reference.states import Masters, arrays_of, set_arrays
from raystudy.reference.world import World
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.run import TrainRun
from raystudy.train.decoder import Decoder
from raystudy.train.micro_batches import release_memory
from raystudy.train.optimizer import build_optimizer
from raystudy.train.precision import autocast, check_device, products
from raystudy.train.schedule import lr_factor
from raystudy.train.stopwatch import Stopwatch
from raystudy.train.tensors import Arrays
from raystudy.train.training import is_logged, read_batch, sample_stream

_OTHER_LAYOUT = (
    "the weights must be shared out over all ranks in a way that raystudy knows, but engine.config shares them out in "
    "another. Take from it what says where weights lie"
)


def share_of(count: int, world: World) -> tuple[int, int]:
    """First and one after the last of `count` things that are this rank's: contiguous, the sizes differ by one."""
    return world.rank * count // world.size, (world.rank + 1) * count // world.size


class ReferenceTraining:
    """The training that `run` asks for, on `view`, by all ranks of `world`: built at initialisation.

    A rank computes on `rows` sequences at most at once. `problem` says what was not finite, if something was not; the
    same on all ranks.
    """

    def __init__(self, run: TrainRun, view: RecipeView, engine: DeepSpeedEngine, world: World, rows: int) -> None:
        check_device(world.device, run.precision)
        self._run, self._view, self._world = run, view, world
        self.watch = Stopwatch(world.device)
        began = time.perf_counter()
        self._first, self._last = share_of(run.settings.batch_sequences, world)
        largest = -(-run.settings.batch_sequences // world.size)
        self.rows, self._micro_batches = rows, -(-largest // rows)
        self.stream = world.together(lambda: sample_stream(run, view))
        self.model = world.together(lambda: Decoder(run.model, run.seed))
        if engine.activation_checkpointing:
            _recompute_blocks(self.model)
        optimizer = build_optimizer(self.model, run.settings.optimizer, run.settings.lr)
        self._engine = initialize(self.model, optimizer, deepspeed_config(run, engine, self._micro_batches))
        try:
            self.masters = Masters(self._engine, self.model, world)
        except (AttributeError, KeyError) as error:
            raise RaystudyError(_OTHER_LAYOUT) from error
        self._begin()
        self.curve: list[dict[str, float]] = []
        self.step = 0  # steps taken
        self.after_step: Callable[[int], None] | None = None  # told how many steps have been taken
        self.keep: Callable[[], None] | None = None
        self.problem = ""
        self.seconds_before = 0.0  # what earlier processes took of this run
        self._began = time.perf_counter()
        self.watch.add({"start-up": self._began - began})

    def _begin(self) -> None:
        """See that masters are the initial weights in FP32 and the optimizer is new: DeepSpeed rounds and steps them.

        In bf16 it makes the masters of weights that it has rounded, and at stage 0 takes a step with no gradient.
        """
        self.masters.clear_optimizer()
        initial = self._world.together(lambda: Decoder(self._run.model, self._run.seed))
        is_same = True
        for name, weight in initial.named_parameters():
            value = weight.detach().to(self._world.device)
            self.masters.set_weight(name, value)
            is_same &= torch.equal(self.masters.weight(name), value)
        if not is_same:
            raise RaystudyError(_OTHER_LAYOUT)

    def advance(self, until: int) -> bool:
        """Take steps until `until` have been taken; stops early at what is not finite. Whether nothing was."""
        self._began = time.perf_counter()
        self.problem = ""
        while self.step < until and not self.problem:
            self._advance()
        self.watch.add({"training": time.perf_counter() - self._began})
        return not self.problem

    def _advance(self) -> None:
        row = self._take_step()
        if row is not None:
            self.curve.append(row)
            self.watch.seconds()
            if not math.isfinite(row["loss"]):
                self.problem = f"the training loss was {row['loss']} at step {self.step}"
                return
        if self._engine.skipped_steps:  # DeepSpeed leaves such a step out; train's weights would be no numbers
            self.problem = f"the gradient was not finite at step {self.step}"
            return
        beat.tell(self.step, "after")
        self.step += 1
        if self.after_step is not None:
            self.after_step(self.step)
        if self.keep is not None:
            self.keep()

    def _take_step(self) -> dict[str, float] | None:
        """One update of the weights; a row of the curve where it has one."""
        settings = self._run.settings
        lr = settings.lr * lr_factor(settings.schedule, self.step, settings.steps)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr * group["lr_factor"]
        is_kept = is_logged(self.step, settings.steps)
        beat.tell(self.step, "data")
        self.watch.start()
        batch = self._read_share()
        self.watch.lap("data")
        loss = torch.zeros((), device=self._world.device)
        for place in range(self._micro_batches):
            if place:
                self._engine.step()  # DeepSpeed counts the part before; it updates after the last one
            loss += self._backward(batch[place * self.rows : (place + 1) * self.rows], batch[:1])
        self.watch.lap("forward-backward")
        beat.tell(self.step, "update")
        norm = self._norm_of_gradients() if is_kept else None
        self._engine.step()
        self.watch.lap("optimizer")
        if not is_kept:
            return None
        norm = self._engine.get_global_grad_norm() if norm is None else norm
        return {"step": self.step, "lr": lr, "loss": float(self._world.sum(loss).item()), "gradient_norm": float(norm)}

    def _backward(self, part: npt.NDArray[np.int64], any_row: npt.NDArray[np.int64]) -> Tensor:
        """Add the gradient of `part` [sequence, context + 1]; its share of the batch's mean loss.

        DeepSpeed averages gradients over ranks, so what each adds is multiplied by their number. Ranks must take the
        same number of parts: one that has none left computes on `any_row`, with weight 0.
        """
        weight = len(part) / self._run.settings.batch_sequences
        tokens = torch.from_numpy(part if len(part) else any_row).to(self._world.device)
        beat.tell(self.step, "forward")
        with products(self._run.precision):
            with autocast(self._run.precision, self._world.device):
                logits = self._engine(tokens[:, :-1])
            loss = functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
            beat.tell(self.step, "backward")
            self._engine.backward(loss * (weight * self._world.size), scale_wrt_gas=False)
        return loss.detach() * weight

    def rehearse(self, rows: int) -> None:
        """Compute on `rows` sequences with weight 0, to see what that takes; no weight changes by it."""
        tokens = read_batch(self._view, self.stream, 0, rows, self._run.model.context)
        self._engine.set_gradient_accumulation_boundary(False)
        self._backward(tokens[:0], tokens)

    def _norm_of_gradients(self) -> Tensor | None:
        """At stage 0 in FP32, where DeepSpeed does not tell it; to be asked before they are clipped."""
        if self._engine.optimizer is not self.masters.optimizer:
            return None
        gradients = [weight.grad for weight in self.model.parameters() if weight.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def _read_share(self) -> npt.NDArray[np.int64]:
        """Token ids [sequence, context + 1] of this rank's samples of the batch; of one other where it has none."""
        first = self.step * self._run.settings.batch_sequences
        count = max(1, self._last - self._first)
        return read_batch(self._view, self.stream, first + self._first, count, self._run.model.context)

    def copy_weights(self, model: Decoder) -> bool:
        """Put the whole FP32 masters into `model`, on every rank; whether all of them are finite."""
        is_finite = True
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(self.masters.weight(name))
                is_finite &= bool(torch.isfinite(weight).all())
        return is_finite

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """All that the steps ahead rest on, as `train` holds it, on rank 0 and no arrays elsewhere.

        Nothing here draws at random once weights are initialised, so there are no generators in it.
        """
        arrays = arrays_of(self.masters)
        seconds = self.watch.seconds()
        seconds["training"] = seconds.get("training", 0.0) + time.perf_counter() - self._began
        return arrays, {"step": self.step, "curve": self.curve, "seconds": seconds}

    def load_state(self, arrays: Mapping[str, npt.NDArray[Any]] | None, about: Mapping[str, Any]) -> None:
        """Go on from what `state` gave; `arrays` are rank 0's, `about` everyone's."""
        set_arrays(self.masters, arrays, self._world)
        self.step, self.curve = about["step"], [dict(row) for row in about["curve"]]
        self.watch.add(about["seconds"])
        self.seconds_before = about["seconds"]["training"] + about["seconds"].get("evaluation", 0.0)

    def close(self) -> None:
        """Give back what DeepSpeed holds; a next run may follow in this process."""
        end(self._engine)
        del self._engine, self.masters, self.model
        release_memory()


def _recompute_blocks(model: Decoder) -> None:
    """Let every block forget its activations and compute them again in the backward pass: the same results."""
    for block in model.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)

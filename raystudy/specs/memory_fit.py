"""What would make a training fit into the memory of a worker: the smallest change, as a sentence.

Knows only the estimate of `memory.py`; how much memory there is, the caller says.
"""

from collections.abc import Iterator
from dataclasses import replace

from raystudy.specs.memory import GIB, Training, estimate_memory

HEADROOM = 0.9  # share of a worker's memory to plan with, since process and fragments are not estimated; an assumption
_OFFLOADS = {1: ("optimizer",), 2: ("optimizer",), 3: ("optimizer", "optimizer-and-weights")}  # by ZeRO stage


def gib(num_bytes: float) -> str:
    """Bytes in words, in GiB; MiB where that is clearer."""
    return f"{num_bytes / GIB:.3g} GiB" if num_bytes >= GIB / 10 else f"{num_bytes / 2**20:.3g} MiB"


def fits(training: Training, available: int) -> bool:
    """Whether the estimate leaves headroom in `available` bytes of a worker, in smallest parts if it finds those."""
    tried = training.smallest if training.finds_its_part else training
    return estimate_memory(tried).total <= HEADROOM * available


def largest_fitting(training: Training, available: int) -> Training | None:
    """The same with the largest micro-batch that fits, its own or that halved as often as needed; None: none fits."""
    sequences = training.tokens_at_once // training.model.context
    while True:
        tried = replace(training, micro_batch_tokens=sequences * training.model.context)
        if estimate_memory(tried).total <= HEADROOM * available:
            return training if tried.tokens_at_once == training.tokens_at_once else tried
        if sequences == 1:
            return None
        sequences = -(-sequences // 2)


def one_device(training: Training) -> Training:
    """The same training by one process under plain torch; where masters are kept, by autocast."""
    precision = "bf16-autocast" if training.precision == "bf16-master" else training.precision
    return replace(
        training, precision=precision, workers=1, zero_stage=None, offload="none", activation_checkpointing=False
    )


def what_would_fit(training: Training, available: int) -> str:
    """The smallest change with which a worker's estimate fits into `available` bytes, as a sentence.

    Tried in this order: a smaller micro-batch (unless `auto` finds that by itself), activation checkpointing, higher
    ZeRO stages, offloading (of GPUs), more workers; then these together.
    """
    needed = estimate_memory(training.smallest if training.finds_its_part else training).total
    stands = "at one sequence at a time" if training.finds_its_part else "as it is"
    told = f"a worker needs about {gib(needed)} {stands} and has {gib(available)}"
    if fits(training, available):
        return f"{told}, so by this estimate it fits: see what else holds memory there"
    last = training
    for candidate in _candidates(training):
        found = largest_fitting(candidate, available)
        if found is not None:
            total = gib(estimate_memory(found).total)
            return f"{told}; {changes(training, found)} would fit ({total} by the estimate)"
        last = candidate
    least = estimate_memory(last.smallest)
    total = f"{gib(least.total)}, {gib(least.evaluation)} of it to evaluate"
    tried = changes(training, last.smallest)
    with_all = f"with {tried} it still needs {total}" if tried else "and nothing is left to change in how it trains"
    return f"{told}; {with_all}. Use a smaller model, a shorter context or devices with more memory"


def changes(before: Training, after: Training) -> str:
    """What differs, as settings of a study's file."""
    place = "resources" if before.zero_stage is None else "engine"
    said = []
    if after.micro_batch_tokens != before.micro_batch_tokens and not before.finds_its_part:
        said.append(f"{place}.micro_batch_tokens: {after.micro_batch_tokens}")
    if after.activation_checkpointing != before.activation_checkpointing:
        said.append("engine.activation_checkpointing: true")
    if after.zero_stage != before.zero_stage:
        said.append(f"engine.zero_stage: {after.zero_stage}")
    if after.offload != before.offload:
        said.append(f"engine.offload: {after.offload}")
    if after.workers != before.workers:
        elsewhere = " on more machines" if before.device == "cpu" else ""
        said.append(f"engine.workers: {after.workers}{elsewhere}")
    return " with ".join(filter(None, (said[0] if said else "", ", ".join(said[1:]))))


def _candidates(training: Training) -> Iterator[Training]:
    """Trainings of less memory: single changes, then more and more of them together."""
    if not training.finds_its_part:
        yield training
    if training.zero_stage is None:
        return
    saving = replace(training, activation_checkpointing=True)
    if saving != training:
        yield saving
    for start in dict.fromkeys((training, saving)):
        sharded = start
        for stage in range((training.zero_stage or 0) + 1, 4 if training.workers > 1 else 0):
            sharded = replace(start, zero_stage=stage)
            yield sharded
        yield from _offloaded(start)
        if start is not sharded:
            yield from _offloaded(sharded)
    yield from _spread(saving)
    yield from _spread(replace(saving, zero_stage=3))


def _offloaded(training: Training) -> Iterator[Training]:
    if training.device == "cuda":
        for offload in _OFFLOADS.get(training.zero_stage or 0, ()):
            if training.offload == "none" or offload == "optimizer-and-weights":
                yield replace(training, offload=offload)  # type: ignore[arg-type]


def _spread(training: Training) -> Iterator[Training]:
    most = min(training.batch_tokens // training.model.context, 2**14)
    workers = 2 * training.workers
    while workers <= most:
        yield replace(training, workers=workers)
        workers *= 2

"""What is told of a run that ended out of memory: what would fit."""

from raystudy.execute.machine import memory_of_worker
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.memory import training_of
from raystudy.specs.memory_fit import what_would_fit
from raystudy.specs.run import CommandRun, ProbeRun, TrainRun
from raystudy.specs.study import StudySpec
from raystudy.study.wanted import WantedRun

OUT_OF_MEMORY = (
    "out of memory. Lower resources.micro_batch_tokens if a step of training ran out (`auto` has tried down to one "
    "sequence); else, or if an evaluation did, the context or the model, or use a larger device; then remove the run's "
    "folder"
)
PROBE_OUT_OF_MEMORY = (
    "out of memory. Lower the probe's batch_tokens, its context or its model, or use a larger device; then remove the "
    "probe's folder"
)
COMMAND_OUT_OF_MEMORY = (
    "out of memory, as its own trainer says. Let it take less at once, by engine.command or engine.environment, which "
    "make no other run anew, or give it more or larger devices (resources.gpus_per_run); then remove the run's folder"
)


def out_of_memory_words(run: WantedRun, study: StudySpec) -> str:
    """What is told of a run that is out of memory, and the way out: by workers, what would fit by the estimate."""
    if isinstance(run.run, ProbeRun):
        return PROBE_OUT_OF_MEMORY
    if isinstance(run.run, CommandRun):
        return COMMAND_OUT_OF_MEMORY
    engine = study.decoder(run.model).engine if isinstance(run.run, TrainRun) else None
    if not (isinstance(run.run, TrainRun) and isinstance(engine, DeepSpeedEngine)):
        return OUT_OF_MEMORY
    return f"out of memory. {would_fit(study, run.model, run.run.model.vocabulary)}. Then remove the run's folder"


def would_fit(study: StudySpec, model: str, vocabulary: int) -> str:
    """What would fit for a decoder that workers train; what it needs, where it is not known how much there is."""
    engine = study.decoder(model).engine
    assert isinstance(engine, DeepSpeedEngine)
    available, training = memory_of_worker(engine), training_of(study, model, vocabulary)
    if available.num_bytes is None:
        return (
            "How much memory a worker has is not known here: say engine.memory_gib, and `raystudy plan` says what "
            "would fit. Smaller are micro_batch_tokens, activation_checkpointing, a higher zero_stage, more workers"
        )
    words = what_would_fit(training, available.num_bytes)
    return f"{words[0].upper()}{words[1:]} ({available.source})"

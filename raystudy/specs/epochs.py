"""How often runs read their sources, without torch: windows lent, epochs, and whose epochs a run matches.

A source's epochs are its weight's share of a run's samples over the windows that it lends. Text is read in windows of
the model's context; what follows the last whole window is not read.
"""

from raystudy.specs.run import TrainRun
from raystudy.specs.study import StudySpec
from raystudy.specs.training import resolve_settings

TARGET = "target"  # in `match_epochs`, where no model is called so: the truth's model


def windows_read(num_windows: int, run: TrainRun) -> int:
    """How many of a source's `num_windows` windows `run` reads: all, or, where it matches the epochs of a longer run,
    the same share of them that its tokens are of that run's; rounded up."""
    longer = run.settings.match_tokens
    if longer is None or longer <= run.num_tokens:
        return num_windows
    return -(-num_windows * run.num_tokens // longer)


def expected_epochs(weight: float, num_tokens: int, run: TrainRun) -> float:
    """How often `run` reads a source of `weight` that holds `num_tokens` tokens; to one sample per 256 (see
    `train.stream`). 0 where the source holds not even one window, which a run refuses."""
    num_windows = (num_tokens - 1) // run.model.context
    if num_windows < 1:
        return 0.0
    return weight * run.settings.steps * run.settings.batch_sequences / windows_read(num_windows, run)


def matched_model(study: StudySpec, model: str) -> str | None:
    """The model whose epochs the runs of `model` are to match; None where all windows are read."""
    named = study.settings_of(model).match_epochs
    if named == TARGET and TARGET not in study.models:
        return getattr(study.protocols[study.truth], "model", None)
    return named


def match_tokens(study: StudySpec, model: str, vocabulary: int, own_tokens: int) -> int | None:
    """Tokens of the run whose epochs a run of `model` over `own_tokens` tokens matches; None if it is no longer.

    A model that is matched may itself match a longer one: then that one's count.
    """
    named = matched_model(study, model)
    if named is None:
        return None
    settings = resolve_settings(study.settings_of(named), study.decoder(named).shape, vocabulary, lr=1.0)
    tokens = settings.steps * settings.batch_sequences * study.decoder(named).context
    return (match_tokens(study, named, vocabulary, tokens) or tokens) if tokens > own_tokens else None

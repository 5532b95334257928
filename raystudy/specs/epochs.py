"""How often runs read their sources, without torch: windows lent, epochs, and whose epochs a run matches.

A source's epochs are its weight's share of a run's samples over the windows that it lends. Text is read in windows of
the model's context; what follows the last whole window is not read.
"""

import math

from raystudy.specs.base import round_significant
from raystudy.specs.run import CommandRun, TrainRun
from raystudy.specs.study import StudySpec
from raystudy.specs.training import RunSettings, resolve_settings

_ROUNDING = 1e-5  # relative; more than a share may be off, since an identity holds six digits
TARGET = "target"  # in `match_epochs`, where no model is called so: the truth's model


def windows_read(num_windows: int, settings: RunSettings) -> int:
    """How many of a source's `num_windows` windows a run reads: all, or the share of its settings, rounded up."""
    if settings.windows_share is None:
        return num_windows
    return max(1, math.ceil(num_windows * settings.windows_share * (1 - _ROUNDING)))


def expected_epochs(weight: float, num_tokens: int, run: TrainRun | CommandRun) -> float:
    """How often `run` reads a source of `weight` that holds `num_tokens` tokens; to one sample per 256 (see
    `train.stream`), and by a command if it reads evenly what it is given. 0 where the source holds not even one window,
    which a run refuses."""
    num_windows = (num_tokens - 1) // run.model.context
    if num_windows < 1:
        return 0.0
    steps = run.settings.steps
    if isinstance(run, TrainRun) and run.starts_from is not None:
        steps += run.starts_from.step  # a branch reads on
    return weight * steps * run.settings.batch_sequences / windows_read(num_windows, run.settings)


def matched_model(study: StudySpec, model: str) -> str | None:
    """The model whose epochs the runs of `model` are to match; None where all windows are read."""
    named = study.settings_of(model).match_epochs
    if named == TARGET and TARGET not in study.models:
        return getattr(study.protocols[study.truth], "model", None)
    return named


def windows_share(study: StudySpec, model: str, vocabulary: int, own_tokens: int) -> float | None:
    """The share of each source that a run of `model` over `own_tokens` tokens reads: its tokens over those of the run
    whose epochs it matches. None for all, where that run is no longer.

    A model that is matched may itself match a longer one, and so read a share: then that one's tokens count.
    """
    longer = _longer(study, model, vocabulary, own_tokens)
    share = 1.0 if longer is None else round_significant(own_tokens / longer)
    return share if share < 1 else None


def _longer(study: StudySpec, model: str, vocabulary: int, own_tokens: int) -> int | None:
    named = matched_model(study, model)
    if named is None:
        return None
    settings = resolve_settings(study.settings_of(named), study.sequence_model(named).shape, vocabulary, lr=1.0)
    tokens = settings.steps * settings.batch_sequences * study.sequence_model(named).context
    return (_longer(study, named, vocabulary, tokens) or tokens) if tokens > own_tokens else None

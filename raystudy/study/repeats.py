"""How often runs will repeat their data: told before anything runs, from the sizes of the recipes' sources.

Knows nothing of storage; what runs did read is in their records.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raystudy.artifacts.shards import SourceSize
from raystudy.errors import DataError
from raystudy.specs.epochs import expected_epochs
from raystudy.specs.run import CommandRun, TrainRun
from raystudy.study.wanted import WantedRun

_MOST_LINES = 20


@dataclass(frozen=True)
class Repeat:
    """A source of a recipe that some runs read more than once: the epochs of the longest of them, by model."""

    recipe: str
    source: str
    epochs: Mapping[str, float]

    def __str__(self) -> str:
        told = ", ".join(f"{epochs:.3g} times by {model!r}" for model, epochs in self.epochs.items())
        return f"recipe {self.recipe!r} holds too few tokens: source {self.source!r} is read {told}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def repeats(runs: Iterable[WantedRun], sources: Mapping[str, Sequence[SourceSize]]) -> list[Repeat]:
    """The sources that `runs` will read more than once, in order of recipe and source; `sources` by recipe.

    Of such a source the epochs at every model are given, below one too, so that proxy and target can be compared.
    """
    found: dict[tuple[str, str], dict[str, float]] = {}
    seen: set[tuple[str, str, int, int, float | None]] = set()
    for wanted in runs:
        run = wanted.run
        if not isinstance(run, TrainRun | CommandRun):
            continue
        before = run.starts_from.step if isinstance(run, TrainRun) and run.starts_from is not None else 0
        key = (wanted.recipe, wanted.model, before, run.num_tokens, run.settings.windows_share)
        if key in seen:
            continue
        seen.add(key)
        for source in sources.get(wanted.recipe, ()):
            by_model = found.setdefault((wanted.recipe, source.name), {})
            epochs = expected_epochs(source.weight, source.num_tokens, run)
            by_model[wanted.model] = max(epochs, by_model.get(wanted.model, 0.0))
    return [Repeat(*names, by_model) for names, by_model in found.items() if max(by_model.values()) > 1]


def check_windows(runs: Iterable[WantedRun], sources: Mapping[str, Sequence[SourceSize]]) -> None:
    """See that every source holds at least one training window of every model that reads it.

    Raises:
        DataError: one does not; the message names all that do not, once each.
    """
    short: dict[tuple[str, str, str], str] = {}
    for wanted in runs:
        if not isinstance(wanted.run, TrainRun):
            continue
        window = wanted.run.model.context + 1
        for source in sources.get(wanted.recipe, ()):
            if source.num_tokens < window:
                told = f"source {source.name!r} of recipe {wanted.recipe!r} holds {source.num_tokens}"
                short[wanted.recipe, source.name, wanted.model] = f"{told}, a window of model {wanted.model!r} {window}"
    if short:
        lines = "\n  ".join(short.values())
        raise DataError(
            f"a source must hold at least one window of the model's context, but has fewer tokens:\n  {lines}\n"
            f"Give it more text, take it out, or choose a shorter context; nothing has been run"
        )


def repeat_lines(found: Sequence[Repeat]) -> list[str]:
    """The repeats in words, the most repeated ones where there are many, and the way out where models differ."""
    if not found:
        return []
    worst = sorted(found, key=lambda repeat: -max(repeat.epochs.values()))[:_MOST_LINES]
    lines = [str(repeat) for repeat in worst]
    if len(found) > len(worst):
        lines.append(f"{len(found) - len(worst)} more sources are read more than once, less often than these")
    if any(max(repeat.epochs.values()) > 1.05 * min(repeat.epochs.values()) for repeat in found):
        most = max(worst[0].epochs, key=lambda model: worst[0].epochs[model])
        lines.append(f"`match_epochs: {most}` in `training:` makes shorter runs repeat their data as often as {most!r}")
    return lines

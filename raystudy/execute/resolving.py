"""What `--resolve-again` changes and costs, and the refusal of text that has changed without it."""

from collections.abc import Sequence
from dataclasses import replace

from raystudy.errors import DataError
from raystudy.execute.frozen_data import Item, SettledData
from raystudy.execute.machine import gpus_for_groups
from raystudy.execute.progress import Progress
from raystudy.study.frozen import Frozen
from raystudy.study.lr_rules import rules_of, without_rules_of
from raystudy.study.plan import extension_price, price_of
from raystudy.study.state import StudyState


def new_shards_refused(data: SettledData, before: StudyState, after: StudyState, slots: int) -> DataError:
    """The error for text that no longer gives the shards that the study's runs were made with."""
    return DataError(
        f"the data of a study must stay those of its earlier runs, but the text of "
        f"{named(data.changed)} now gives other shards. Going on with the new text would take "
        f"{_cost(before, after, slots)}; nothing has been run. Restore the text, or run with --resolve-again to "
        f"take the new one"
    )


def _cost(before: StudyState, after: StudyState, slots: int) -> str:
    gpus = gpus_for_groups(after.study)
    more = extension_price(after, slots, before, gpus)
    grids = f", and at most {more.runs} runs more where grids go on beyond their edges" if more.runs else ""
    return f"{price_of(after, slots, before, gpus)}{grids}"


def named(items: Sequence[Item]) -> str:
    """The items in words."""
    return ", ".join(f"{kind} {name!r}" for kind, name in items)


def resolve_again(frozen: Frozen, state: StudyState) -> Frozen:
    """What is frozen, less the learning rates that the study's rules go by."""
    return replace(frozen, rules=without_rules_of(state))


def tell_changes(data: SettledData, before: StudyState, after: StudyState, slots: int, progress: Progress) -> None:
    """Say what is resolved otherwise now, and what that costs."""
    lines = [f"  the data of {named([item])}: new shards" for item in data.changed]
    rules = rules_of(before)
    for name, now in rules_of(after).items():
        was = rules[name]
        if was.point is not None and now.point is None:
            lines.append(f"  {name}: LR {was.point.name} -> not known yet: it waits for {now.reason}")
        elif was.point is not None and now.point is not None and was.point != now.point:
            lines.append(f"  {name}: LR {was.point.name} -> {now.point.name}")
    if not lines:
        progress.say("resolved again: nothing changes")
        return
    progress.say("resolved again:")
    for line in lines:
        progress.say(line)
    progress.say(f"  what this wants besides: {_cost(before, after, slots)}; nothing is deleted")

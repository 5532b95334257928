"""One lane as a Tuner: its trials ask for tasks, and what becomes of them is told to the driver.

Trials are asked for by a searcher, so that how many are at work may change while the Tuner runs. Actors are reused (a
trial start costs seconds otherwise) and Tune writes no logs of its own. Tune pickles what it is given for a restore
that never comes: searcher and callback are pickled empty. Loaded once Ray is there.
"""

import queue
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import Callback
from ray.tune.search import Searcher

from raystudy.distribute.cluster_nodes import NODE_LABEL
from raystudy.distribute.lanes import Lane, Lanes
from raystudy.execute.work import Task
from raystudy.specs.run import ProbeRun

# In the text that Tune writes of an error: its own first line, and colours.
_NOT_SAID = re.compile(r"^Failure # \d+ \(occurred at .*\)$|\x1b\[[0-9;]*m", re.MULTILINE)

# What a trial reports.
REPORTS, NODE, IS_PART = "raystudy_reports", "raystudy_node", "raystudy_is_part"


@dataclass(frozen=True)
class Told:
    """Reports of a task as JSON, from a node; `is_part`: the task goes on."""

    lane: Lane
    task_id: str
    reports: str
    node: str
    is_part: bool


@dataclass(frozen=True)
class Death:
    """A trial ended by an error of this text (empty: not known), so many seconds after it was started."""

    task_id: str
    error: str
    seconds: float


@dataclass(frozen=True)
class LaneEnd:
    """A lane's Tuner has ended; `error`: of Tune itself."""

    lane: Lane
    error: BaseException | None


Events = queue.Queue[Told | Death | LaneEnd]


class _Asking(Searcher):  # type: ignore[misc]
    """Hands the tasks of a lane to Tune's trials as they may start."""

    def __init__(self, lanes: Lanes, lane: Lane) -> None:
        super().__init__()
        self._lanes, self._lane = lanes, lane

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:  # noqa: ARG002
        return True

    def suggest(self, trial_id: str) -> Any:
        try:
            task = self._lanes.take(self._lane, trial_id)
        except StopIteration:
            return Searcher.FINISHED
        return None if task is None else {"task": shown(task)}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:  # noqa: ARG002
        self._lanes.give_back(self._lane, trial_id)

    def save_to_dir(self, *arguments: Any, **named: Any) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass


class _Telling(Callback):  # type: ignore[misc]
    """Passes each trial's reports, or what it died of, to the driver."""

    def __init__(self, lane: Lane, events: Events) -> None:
        self._lane, self._events = lane, events
        self._started: dict[str, float] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:  # noqa: ARG002
        self._started[trial.config["task"]["task_id"]] = time.monotonic()

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:  # noqa: ARG002
        if REPORTS in result:
            about = (result[REPORTS], result.get(NODE, ""), bool(result.get(IS_PART)))
            self._events.put(Told(self._lane, trial.config["task"]["task_id"], *about))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:  # noqa: ARG002
        task_id, now = trial.config["task"]["task_id"], time.monotonic()
        self._events.put(Death(task_id, _error_of(trial), now - self._started.get(task_id, now)))


def _error_of(trial: Any) -> str:
    """The text of what it died of, which Tune has just written here; the exception itself it leaves as a pickle only.

    `Trial.get_error` reads a copy that is made later.
    """
    with suppress(OSError, TypeError):
        text = Path(trial.error_file).read_text(errors="replace")
        return _NOT_SAID.sub("", text).strip()
    return ""


def shown(task: Task) -> dict[str, Any]:
    """What Tune shows of a task: its first run."""
    first, about = task.specs()[0], {"recipe": task.recipe, "model": task.model, "runs": len(task.runs)}
    if not isinstance(first, ProbeRun):
        about |= {"lr": first.settings.lr, "seed": first.seed, "steps": first.settings.steps}
    return {"task_id": first.run_id, **about}


@dataclass(frozen=True)
class Doing:
    """What the trials of a lane do.

    `name`: never used before on this cluster. `work`: called with a trial's config and `given`, which goes by the
    object store. `asks`: CPUs and GPUs of a trial. `avoid`: ids of nodes to place none on. `folder`: fresh, for what
    Tune writes.
    """

    name: str
    work: Callable[..., Any]
    given: Mapping[str, Any]
    asks: Mapping[str, float]
    avoid: tuple[str, ...]
    folder: str


def run_lane(lanes: Lanes, lane: Lane, doing: Doing, events: Events) -> None:
    """Run the lane's Tuner to its end, in a thread of its own; all that comes of it goes to `events`."""
    try:
        _tuner(lanes, lane, doing, events).fit()
    except BaseException as error:
        events.put(LaneEnd(lane, error))
    else:
        events.put(LaneEnd(lane, None))


def _tuner(lanes: Lanes, lane: Lane, doing: Doing, events: Events) -> Any:
    work = doing.work

    def trial(config: dict[str, Any], **given: Any) -> Any:
        return work(config, **given)

    trial.__name__ = doing.name  # by which Tune knows what trials do, and two Tuners may run at once
    asks = {key: amount for key, amount in doing.asks.items() if amount}
    labels = {"bundle_label_selector": [{NODE_LABEL: f"!in({','.join(doing.avoid)})"}]} if doing.avoid else {}
    places = tune.PlacementGroupFactory([asks], **labels)
    return tune.Tuner(
        tune.with_resources(tune.with_parameters(trial, **doing.given), places),
        tune_config=tune.TuneConfig(reuse_actors=True, search_alg=_Asking(lanes, lane), num_samples=len(lane.tasks)),
        run_config=tune.RunConfig(
            name=doing.name, storage_path=doing.folder, verbose=0, callbacks=[_Telling(lane, events)]
        ),
    )

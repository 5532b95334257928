"""A finished (or running) study as tidy pandas frames, read from storage. Needs neither torch nor ray.

pandas and the comparison (scipy) are loaded on first use: a launch that finds nothing to do needs neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raystudy.artifacts.downstream import join_answers
from raystudy.artifacts.kept_tables import with_kept_tables
from raystudy.artifacts.storage import Storage, StudyFolder, is_uri, locate_storage, open_storage
from raystudy.artifacts.study_lock import read_lock
from raystudy.errors import StorageError, UnreadableError
from raystudy.specs.reading import Asked
from raystudy.specs.run import ProbeRun
from raystudy.specs.study import StudySpec
from raystudy.study.frozen import FORMAT as FROZEN_FORMAT
from raystudy.study.frozen import Frozen, FrozenRule, read_plain
from raystudy.study.protocols.registry import protocols_of
from raystudy.study.state import PRIMARY_METRIC, StudyInputs, StudyState
from raystudy.study.waves import make_wave

if TYPE_CHECKING:
    import pandas as pd


def read_records(
    storage: Storage, study: StudySpec, inputs: StudyInputs, frozen: Mapping[str, FrozenRule] | None = None
) -> StudyState:
    """The state of a study: reads wave after wave, since later runs are named by earlier results."""
    records: dict[str, Any] = {}
    known: dict[str, Asked] = {}
    state = StudyState(study, inputs, records, frozen or {})
    with ExitStack() as held:
        while True:
            state = state.with_records(records)
            wanted = make_wave(state).wanted
            asked = {run_id: run.asked for run_id, run in wanted.items()}
            new = {run_id: wanted[run_id].run for run_id, ask in asked.items() if known.get(run_id) != ask}
            if not new:
                return state
            known |= asked
            readings = {run_id: asked[run_id].readings for run_id in new}
            # From afar, one look at what is there serves all waves.
            held.enter_context(storage.runs.files.together(len(new), storage.study(study.name).compacted))
            found = storage.runs.read_all(new, inputs.validation.values(), readings)
            records = {**records, **join_answers(storage.runs, found, inputs.tasks.values())}


def read_frozen(folder: StudyFolder) -> Frozen:
    """What the study in `folder` has frozen; nothing where it has not run.

    Raises:
        UnreadableError: the file cannot be read.
        StorageError: it is torn, or something else.
    """
    try:
        return read_plain(folder.read_frozen())
    except UnreadableError:
        raise
    except StorageError as error:
        raise StorageError(
            f"{folder.path / 'frozen.json'} must hold what the study has frozen (format {FROZEN_FORMAT}): {error}. "
            f"Restore it, or remove it to resolve learning rates and data anew"
        ) from error


def inputs_from(stored: Mapping[str, Any]) -> StudyInputs:
    """The digests as a study folder keeps them."""
    try:
        return StudyInputs(
            dict(stored["shards"]),
            dict(stored["validation"]),
            int(stored["vocabulary"]),
            None if stored.get("leaked") is None else dict(stored["leaked"]),
            dict(stored.get("tasks", {})),
            {name: (int(tokens), int(size)) for name, (tokens, size) in stored.get("sizes", {}).items()},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError("a study on storage must hold the digests of its shards. Run the study again") from error


_ENTRY_COLUMNS = ("candidate", "metric", "kind", "model", "lr", "step", "readout", "num_recipes")


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows)


class StudyResults:
    """A study on storage. Frames are read once; make a new object to see new results.

    Without `study` it is as it was last run, with the scores that its tables held then.
    """

    def __init__(self, storage: Storage, folder: StudyFolder, study: StudySpec | None = None) -> None:
        stored, inputs = folder.read_study()
        self.storage, self.folder = storage, folder
        self.study = with_kept_tables(stored, folder.path, inputs) if study is None else study
        self.inputs = inputs_from(inputs)

    @cached_property
    def state(self) -> StudyState:
        """Study, digests and records."""
        return read_records(self.storage, self.study, self.inputs, read_frozen(self.folder).rules)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row per wanted run: recipe, model, lr, seed, status, loss, tokens, seconds, moved figures."""
        rows = []
        for run_id, wanted in make_wave(self.state).wanted.items():
            record = self.state.record(wanted)
            row: dict[str, Any] = {"run_id": run_id, "recipe": wanted.recipe, "model": wanted.model}
            row |= {"lr": wanted.lr, "seed": wanted.seed, "tokens": wanted.run.num_tokens}
            row |= {f"swept_{axis}": value for axis, value in wanted.changes}
            row |= {"status": "missing" if record is None else record.status}
            row |= {metric: self.state.value(wanted, metric) for metric in self.state.metrics}
            row |= {"unigram_loss": self.state.unigram_loss(wanted, PRIMARY_METRIC)}
            if record is not None:
                row |= {"seconds": record.seconds, **record.result.get("moved", {})}
            rows.append(row)
        return _frame(rows)

    @cached_property
    def readings(self) -> pd.DataFrame:
        """One row per wanted run and step or read-out it is scored at: run_id, recipe, ..., step, readout, losses."""
        rows = []
        for run_id, wanted in make_wave(self.state).wanted.items():
            about: dict[str, Any] = {"run_id": run_id, "recipe": wanted.recipe, "model": wanted.model}
            about |= {"lr": wanted.lr, "seed": wanted.seed}
            for reading in wanted.asked.readings:
                read = replace(wanted, reading=reading)
                kind = "last" if reading.readout is None else reading.readout.kind
                losses = {metric: self.state.loss(read, metric) for metric in self.state.metrics}
                rows.append({**about, "step": reading.step, "readout": kind, **losses})
        return _frame(rows)

    @cached_property
    def probes(self) -> pd.DataFrame:
        """What probes measured, one row per number: run_id, recipe, model, probe, detail, seed, name, dataset_name,
        value, unit, direction. Standard errors and residuals are rows of their own."""
        rows = []
        for run_id, wanted in make_wave(self.state).wanted.items():
            record = self.state.record(wanted)
            if record is None or not isinstance(wanted.run, ProbeRun):
                continue
            about: dict[str, Any] = {"run_id": run_id, "recipe": wanted.recipe, "model": wanted.model}
            about |= {"probe": wanted.run.probe, "detail": wanted.detail, "seed": wanted.seed}
            rows += [{**about, **row} for row in record.result["metrics"]]
        return _frame(rows)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Training curves in long form: run_id, recipe, model, lr, seed, step, loss, gradient_norm."""
        rows = []
        wanted_runs, files = make_wave(self.state).wanted, self.storage.runs.files
        with files.together(len(wanted_runs), self.folder.compacted):
            files.fetch(f"{run_id}/curve.jsonl" for run_id in wanted_runs)
            for run_id, wanted in wanted_runs.items():
                about = {"run_id": run_id, "recipe": wanted.recipe, "model": wanted.model, "seed": wanted.seed}
                rows += [{**about, **row} for row in self.storage.runs.read_curve(run_id)]
        return _frame(rows)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Scores in long form: protocol, recipe, metric, seed (position), score, edge. The table other tools take."""
        rows = []
        for protocol in protocols_of(self.study).values():
            for scored in protocol.scored(self.state):
                for metric, scores in scored.scores.items():
                    rows += [
                        {"protocol": scored.name, "recipe": recipe, "metric": metric, "seed": seed, "score": score}
                        | {"edge": scored.edges.get(recipe)}
                        for recipe, values in zip(scores.recipes, scores.values.tolist(), strict=True)
                        for seed, score in enumerate(values)
                    ]
        return _frame(rows)

    @cached_property
    def comparison_json(self) -> dict[str, Any]:
        """The comparison as `comparison.json` holds it, worked out anew."""
        from raystudy.study.comparing import compare_study

        return compare_study(self.state, read_lock(self.folder.path))

    @cached_property
    def comparison(self) -> pd.DataFrame:
        """One row per candidate and metric: figures with their intervals, and how many recipes each guard names."""
        rows = []
        for entry in self.comparison_json["comparisons"]:
            row = {key: entry[key] for key in _ENTRY_COLUMNS}
            for figure in ("spearman", "kendall_tau_b", "pearson", "decision_accuracy"):
                interval = entry[figure]["these_recipes"] or {"low": None, "high": None}
                row |= {figure: entry[figure]["value"]}
                row |= {f"{figure}_low": interval["low"], f"{figure}_high": interval["high"]}
            rows.append(row | {guard: len(recipes) for guard, recipes in entry["guards"].items()})
        return _frame(rows)

    @property
    def verdict(self) -> str:
        """The verdict's sentence."""
        return str(self.comparison_json["verdict"]["sentence"])


def load(path: str | Path) -> StudyResults:
    """Load a study from its folder or URI (`STORAGE/studies/NAME`), or by name (RAYSTUDY_STORAGE, default storage).

    Raises:
        StorageError: there is no such study.
    """
    text = str(path)
    if is_uri(text):
        root, _, name = text.rstrip("/").rpartition("/studies/")
        storage = open_storage(root or text)
        return StudyResults(storage, StudyFolder.at(storage.root, storage.root / "studies" / name))
    folder = Path(path)
    if not (folder / "study.json").exists():
        storage = locate_storage()
        if not storage.study(text).is_there():
            raise StorageError(f"{path} must be the folder of a study, or the name of one in {storage.root}")
        return StudyResults(storage, storage.study(text))
    storage = open_storage(folder.absolute().parent.parent)
    return StudyResults(storage, StudyFolder.at(storage.root, folder.absolute()))

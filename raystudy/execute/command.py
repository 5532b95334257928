"""Runs made by anyone's own trainer: start the command or the callable, watch it, take its result. Needs no torch.

A run has a work folder beside its record, `runs/<run_id>/work/`: `spec.json` (what is asked, written anew at every
attempt), `log.txt` (what all attempts printed) and `out/`, which stays the same, so that the trainer goes on from its
own checkpoints there. One process at a time has the folder. Of a remote storage it is on this node meanwhile (see
command_work.py).
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raystudy.artifacts.files import StoragePath, read_json, storage_errors, write_json
from raystudy.artifacts.node_cache import on_this_node
from raystudy.artifacts.results import Record
from raystudy.artifacts.shards import TokenShard, open_tokens, shard_folder
from raystudy.errors import RaystudyError, StorageError
from raystudy.execute.command_record import write_record
from raystudy.execute.command_result import RESULT, Wish, put_aside, read_result
from raystudy.execute.command_work import held
from raystudy.execute.made import now
from raystudy.execute.threads import thread_settings
from raystudy.execute.workplace import Workplace
from raystudy.specs.command import fill
from raystudy.specs.command_result import CommandResult
from raystudy.specs.commission import Commission, ExternalPlace
from raystudy.specs.reading import Asked
from raystudy.specs.run import CommandRun
from raystudy.train import stop_request

SPEC_FORMAT = "raystudy-command/1"
_GUARD = Path(__file__).with_name("command_guard.py")
_PACKAGES = Path(__file__).resolve().parents[2]  # where raystudy itself is imported from
_SHOWN_LINES, _SHOWN_CHARACTERS = 5, 200  # of a log, in a cause


def make_command_run(run: CommandRun, at: Workplace, commission: Commission, asked: Asked) -> tuple[str, bool]:
    """Make the run if it has no record, or start its trainer again for losses that lack; the first result stays.

    Returns its status, and whether it was made.

    Raises:
        RaystudyError: the trainer failed, ran out of its time, or left no result that holds what is asked.
    """
    work = at.storage.runs.folder(run.run_id) / "work"
    record = _record(run, at, asked)
    if record is not None and _is_measured(record, run, at, asked):
        return record.status, False
    with held(work) as place:
        record = _record(run, at, asked)
        if record is not None and _is_measured(record, run, at, asked):
            return record.status, False  # made by whoever held the folder meanwhile
        shards = _see_shards(run, at, commission)
        at.storage.runs.write_spec(run)
        steps = tuple(sorted({reading.step for reading in asked.readings}))
        wish = Wish(run, dict(at.validation), steps, commission.metric, frozenset(commission.held), shards)
        started_at = now()
        with place.kept():
            result, seconds = _result(place.here, wish, at, commission, place.lock)
        if record is not None and record.status != result.status:
            raise RaystudyError(
                f"run {run.run_id}, started again for losses that lack, must end {record.status} as it did, but is "
                f"{result.status}. Remove its folder from the storage to make it anew"
            )
        write_record(wish, result, seconds, started_at, at, commission, before=record)
        return result.status, record is None


def _record(run: CommandRun, at: Workplace, asked: Asked) -> Record | None:
    return at.storage.runs.read(run.run_id, at.validation, run=run, readings=asked.readings)


def _is_measured(record: Record, run: CommandRun, at: Workplace, asked: Asked) -> bool:
    return record.is_measured(at.validation, run.settings.steps, asked.readings)


def _result(work: Path, wish: Wish, at: Workplace, commission: Commission, lock: int) -> tuple[CommandResult, float]:
    """The result that is there already, of an attempt whose worker died, else that of a new attempt; its seconds."""
    written, path, spec = work / "out" / RESULT, work / "spec.json", _spec(work, wish, at, commission)
    if written.exists() and _sets_of(spec) == _sets_of(_last_spec(path)):
        with contextlib.suppress(RaystudyError):
            return read_result(written, wish), max(0.0, written.stat().st_mtime - path.stat().st_mtime)
    put_aside(written)
    write_json(path, spec, durable=False)
    started = time.perf_counter()
    _attempt(work, spec, commission, lock)
    result = read_result(written, wish)
    return result, time.perf_counter() - started


def _last_spec(path: Path) -> dict[str, Any]:
    """What the last attempt was asked; nothing where that cannot be told."""
    try:
        value = read_json(path)
    except StorageError:
        return {}
    return value if isinstance(value, dict) else {}


def _sets_of(spec: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """The validation sets that a result answers for: a name alone may come to stand for other data."""
    return sorted((held["name"], held["version"]) for held in spec.get("validation", ()))


def _see_shards(run: CommandRun, at: Workplace, commission: Commission) -> dict[str, TokenShard]:
    """See that the shards which the trainer reads are what was written, as our own runs do; raises DamagedError.

    Returns the validation sets that are shards, by name.
    """
    if commission.data is None:
        at.view(run.shards)
    held = {name: digest for digest, name in at.validation.items() if name not in commission.held}
    return {name: open_tokens(at.storage.root, digest) for name, digest in held.items()}


def _spec(work: Path, wish: Wish, at: Workplace, commission: Commission) -> dict[str, Any]:
    """What spec.json holds."""
    run, root = wish.run, at.storage.root
    root = root.resolve() if isinstance(root, Path) else root
    plain = run.model_dump(mode="json")
    return {
        "format": SPEC_FORMAT,
        "run_id": run.run_id,
        "recipe": commission.recipe,
        "model_name": commission.model,
        "version": run.version,
        "model": plain["model"],
        "settings": plain["settings"],
        "precision": run.precision,
        "seed": run.seed,
        "tokens": run.num_tokens,
        "batch_tokens": run.settings.batch_sequences * run.model.context,
        "context": run.model.context,
        "device": at.device,
        "data": _place(root, run.shards, commission.data),
        "validation": [
            {"name": name, **_place(root, digest, commission.held.get(name))} for digest, name in at.validation.items()
        ],
        "losses_after_steps": [*wish.steps, run.settings.steps],
        "metric": wish.metric,
        "out": str(work.resolve() / "out"),
        "result": str(work.resolve() / "out" / RESULT),
    }


def _place(root: StoragePath, digest: str, outside: ExternalPlace | None) -> dict[str, str]:
    if outside is not None:
        return {"kind": "external", "path": outside.path, "version": outside.version}
    return {"kind": "shards", "path": str(on_this_node(shard_folder(root, digest))), "version": digest}


def _arguments(work: Path, spec: Mapping[str, Any], commission: Commission) -> list[str]:
    """The command with its placeholders filled in, or what calls the callable."""
    path, engine = str(work.resolve() / "spec.json"), commission.engine
    if engine.callable is not None:
        return [sys.executable, "-m", "raystudy.execute.called", engine.callable, path]
    values = {name: spec[name] for name in ("out", "seed", "tokens", "batch_tokens", "context", "recipe", "run_id")}
    values |= {"spec": path, "python": sys.executable, "model": spec["model_name"], "data": spec["data"]["path"]}
    values |= {"lr": spec["settings"]["lr"], "steps": spec["settings"]["steps"]}
    values["validation"] = ",".join(held["path"] for held in spec["validation"])
    return [fill(argument, values) for argument in engine.command or ()]


def _environment(commission: Commission) -> dict[str, str]:
    threads = thread_settings(commission.threads)
    own = {**os.environ, "PYTHONUNBUFFERED": "1", **threads, **commission.engine.environment}
    if commission.engine.callable is not None:
        places = (commission.engine.folder, str(_PACKAGES), own.get("PYTHONPATH", ""))
        own["PYTHONPATH"] = os.pathsep.join(filter(None, places))
    return own


def _attempt(work: Path, spec: Mapping[str, Any], commission: Commission, lock: int) -> None:
    """Start the command and wait for its end; raises RaystudyError unless it ends well."""
    engine, log = commission.engine, work / "log.txt"
    if not Path(engine.folder).is_dir():
        raise RaystudyError(f"engine.folder must be a folder on every machine that runs, but {engine.folder} is none")
    arguments = _arguments(work, spec, commission)
    timeout = str(60 * (engine.timeout_minutes or 0))
    with storage_errors(log), log.open("ab") as file:
        file.write(f"== raystudy: {now()}: {' '.join(arguments)}\n".encode())
        begun = file.tell()
    guard = subprocess.Popen(
        [sys.executable, "-S", "-E", str(_GUARD), str(log.resolve()), timeout, str(engine.grace_seconds), *arguments],
        cwd=engine.folder,
        env=_environment(commission),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(lock,),  # the folder stays held until the command and all it started have ended
        start_new_session=True,  # it outlives whoever interrupts the driver, and ends the command
        text=True,
    )
    assert guard.stdin is not None
    assert guard.stdout is not None
    try:
        with stop_request.when_requested(guard.stdin.close):  # which tells it to end the command
            told = guard.stdout.read()
    finally:
        guard.stdin.close()
        guard.stdout.close()
    guard.wait()
    try:
        _check_end(told, engine.timeout_minutes, work, log, begun)
    except RaystudyError:
        stop_request.raise_if_requested()
        raise


def _check_end(told: str, timeout_minutes: float | None, work: Path, log: Path, begun: int) -> None:
    """Raise RaystudyError for an end that is none; a result that was left all the same is put aside."""
    ended: dict[str, Any] = {"problem": "", "status": None, "is_timed_out": False}
    ended |= json.loads(told) if told.strip() else {}
    status = ended["status"]
    if ended["problem"]:
        cause = f"the command must be a program that can be started, but: {ended['problem']}"
    elif ended["is_timed_out"]:
        cause = f"the command must end within {timeout_minutes:g} minutes (engine.timeout_minutes), but went on"
    elif status is None:
        cause = "the command must be left to end by itself, but what watches it was killed"
    elif status < 0:
        cause = f"the command must end by itself, but was killed by signal {-status}"
    elif status > 0:
        cause = f"the command must end with exit status 0, but ended with {status}"
    elif not (work / "out" / RESULT).exists():
        cause = f"the command must leave {RESULT} in {{out}}, but ended with exit status 0 and left none"
    else:
        return
    put_aside(work / "out" / RESULT)
    raise RaystudyError(f"{cause}. {_last_lines(log, begun)}")


def _last_lines(log: Path, begun: int) -> str:
    """What the attempt printed last, and where all of it is."""
    with log.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(begun, end - 4 * _SHOWN_LINES * _SHOWN_CHARACTERS))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    shown = " | ".join(line[:_SHOWN_CHARACTERS] for line in lines[-_SHOWN_LINES:])
    return f"Its last lines: {shown} (all: {log})" if shown else f"It printed nothing (log: {log})"

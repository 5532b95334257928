"""What training needs of this machine, checked before it: packages, GPUs, compiler, port, build folder, storage."""

import math
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Literal

from raystudy.artifacts.files import broken_promise, write_bytes
from raystudy.artifacts.node_room import CACHE, cache_folder
from raystudy.artifacts.storage import Storage
from raystudy.errors import RaystudyError
from raystudy.execute.gpus import visible_gpus
from raystudy.execute.local import num_cores
from raystudy.execute.machine import machine_memory
from raystudy.execute.packages import Package, imported, installed
from raystudy.reference.builds import VARIABLE, build_folder, build_locks
from raystudy.specs.command import CommandEngine, fill
from raystudy.specs.engines import DeepSpeedEngine, TorchEngine
from raystudy.specs.memory import GIB
from raystudy.specs.memory_fit import gib
from raystudy.specs.study import StudyDecoder, StudySpec

Severity = Literal["ok", "warning", "problem"]
_LEAST_FREE_DISK = 2 * GIB  # below it a warning: weights and shards of a small study are some hundred MiB
_EXTRAS = {"torch": "train", "deepspeed": "deepspeed", "ray": "cluster", "transformers": "dev"}
_COMPILERS = ("c++", "g++", "clang++")


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what was found, and what to do unless it is `ok`."""

    name: str
    severity: Severity
    found: str
    way_out: str = ""

    def __str__(self) -> str:
        return f"{self.severity:<8} {self.name}: {self.found}" + (f". {self.way_out}" if self.way_out else "")


@dataclass(frozen=True)
class Needs:
    """What training must find on this machine; without a study all that DeepSpeed on CPUs needs.

    `gpus` of raystudy's own runs and `cpus` of one run; `command_gpus` and `commands`: of trainers of one's own.
    """

    torch: bool = True
    deepspeed: bool = True
    gpus: int = 0
    cpus: float = 0.0
    command_gpus: int = 0
    commands: tuple[CommandEngine, ...] = ()


def needs_of(study: StudySpec) -> Needs:
    """What the runs of a study need, on this machine alone."""
    decoders = [model for model in study.models.values() if isinstance(model, StudyDecoder)]
    engines = [model.engine for model in decoders if isinstance(model.engine, DeepSpeedEngine)]
    named = [engine for name in study.models if (engine := study.command_of(name)) is not None]
    commands = tuple(engine for place, engine in enumerate(named) if engine not in named[:place])
    by_command = [math.ceil(study.resources_of(name).gpus_per_run) for name in study.models if study.command_of(name)]
    gpus = [engine.workers * engine.gpus_per_worker for engine in engines]
    gpus += [
        math.ceil(study.resources_of(name).gpus_per_run)
        for name, model in study.models.items()
        if isinstance(model, StudyDecoder) and isinstance(model.engine, TorchEngine)
    ]
    cpus = [engine.workers * engine.cpus_per_worker for engine in engines]
    own = Needs(study.needs_torch, bool(engines), max(gpus, default=0), max(cpus, default=0.0))
    return replace(own, command_gpus=max(by_command, default=0), commands=commands)


def examine(needs: Needs, storage: Storage | None = None) -> list[Finding]:
    """Look at everything; `storage` too where one is given. Changes nothing that stays."""
    with ThreadPoolExecutor(2) as pool:
        torch, deepspeed = pool.map(imported, ("torch", "deepspeed"))
    findings = [
        _python(),
        _package(torch, is_needed=needs.torch, use="it trains all models of text"),
        _package(deepspeed, is_needed=needs.deepspeed, use="engine: deepspeed needs it"),
        _package(installed("ray"), is_needed=False, use="needed unless studies run with --local"),
        _package(installed("transformers"), is_needed=False, use="only what checks exported models needs it"),
        _gpus(torch, needs),
        _backend(torch, needs),
        *_compiler(),
        _port(),
        *_builds(needs),
        _machine(needs),
        *map(_trainer, needs.commands),
    ]
    return [*findings, *(() if storage is None else _storage(storage))]


def _python() -> Finding:
    found = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro} at {sys.executable}"
    return Finding("python", "ok", found)  # an older one does not import this file


def _package(package: Package, *, is_needed: bool, use: str) -> Finding:
    worst: Severity = "problem" if is_needed else "warning"
    extra = _EXTRAS[package.name]
    if package.trouble:
        return Finding(package.name, worst, package.trouble, f"Install raystudy[{extra}] anew")
    if package.is_missing:
        return Finding(package.name, worst, f"not installed ({use})", f"Install raystudy[{extra}]")
    if not package.is_supported:
        way_out = f"Install {package.name}{package.supported}, which raystudy is tested with"
        return Finding(package.name, "warning", f"{package.version} must be {package.supported}", way_out)
    return Finding(package.name, "ok", package.version + (f" ({package.supported})" if package.supported else ""))


def _gpus(torch: Package, needs: Needs) -> Finding:
    names = torch.about.get("gpus", []) if needs.torch else visible_gpus(by_torch=False)
    built = torch.about.get("built_for_cuda")
    none = f"torch is built for {'CUDA ' + built if built else 'CPUs'}" if needs.torch else "nvidia-smi lists none"
    found = f"{len(names)} ({names[0]})" if names else f"none ({none})"
    asked = max(needs.gpus, needs.command_gpus)
    if len(names) >= asked:
        return Finding("GPUs", "ok", found)
    way_out = "Set gpus_per_worker and gpus_per_run to 0, or go where there are GPUs"
    way_out += " and a build of torch for them" if needs.torch else ""
    return Finding("GPUs", "problem", f"{found}, but {asked} are needed", way_out)


def _backend(torch: Package, needs: Needs) -> Finding:
    name = "nccl" if needs.gpus else "gloo"
    if torch.about.get(name):
        return Finding("backend", "ok", f"{name}, over which workers on {'GPUs' if needs.gpus else 'CPUs'} speak")
    severity: Severity = "problem" if needs.deepspeed else "warning"
    return Finding("backend", severity, f"torch has no {name} here", f"Install a build of torch with {name}")


def _compiler() -> Iterable[Finding]:
    use = "needed only where a version of DeepSpeed builds an operation of its own: raystudy's settings need none"
    told = os.environ.get("CXX", "")
    compiler = shutil.which(told) if told else next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler:
        yield Finding("C++ compiler", "ok", compiler)
    else:
        found = f"none on PATH, or as CXX={told!r}" if told else f"none of {', '.join(_COMPILERS)} on PATH"
        yield Finding("C++ compiler", "warning", f"{found}; {use}", "Install g++ if that is so")
    ninja = shutil.which("ninja")
    if ninja:
        yield Finding("ninja", "ok", ninja)
    else:
        yield Finding("ninja", "warning", f"not on PATH; {use}", "Install ninja if that is so")


def _port() -> Finding:
    told = os.environ.get("MASTER_PORT", "")
    port = int(told) if told.isdigit() and int(told) < 2**16 else 0
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            found = f"127.0.0.1:{port or 'any'} cannot be bound: {error.strerror}"
            way_out = "Unset MASTER_PORT, or set it to a free port" if port else "Allow processes to use loopback"
            return Finding("port", "problem", found, way_out)
        return Finding("port", "ok", f"127.0.0.1:{probe.getsockname()[1]} is free, where workers meet")


def _builds(needs: Needs) -> Iterable[Finding]:
    worst: Severity = "problem" if needs.deepspeed else "warning"
    whence = f"{VARIABLE}" if os.environ.get(VARIABLE) else f"{VARIABLE} is not set: the user's own"
    way_out = f"Set {VARIABLE} to a folder of yours on a local disk"
    try:
        folder = build_folder()
    except OSError as error:
        yield Finding("build folder", worst, str(error), way_out)
        return
    trouble = _unwritable(folder, _not_written)
    if trouble:
        yield Finding("build folder", worst, f"{folder} ({whence}) cannot be written: {trouble}", way_out)
        return
    checkout = next((parent for parent in folder.parents if (parent / ".git").exists()), None)
    if checkout is not None:
        yield Finding("build folder", "warning", f"{folder} ({whence}) lies in the checkout {checkout}", way_out)
    else:
        yield Finding("build folder", "ok", f"{folder} ({whence})")
    for lock in build_locks(folder):
        if lock.is_stale:
            way_out = f"A killed build left it, and every start would wait for it for ever. Remove it: rm {lock.path}"
            yield Finding("build lock", worst, f"stale: {lock}", way_out)
        else:
            yield Finding("build lock", "warning", f"{lock}", "Wait for that build; other starts do too")


def _machine(needs: Needs) -> Finding:
    cores, memory = num_cores(), machine_memory()
    found = f"{cores} cores, {'unknown' if memory is None else gib(memory)} of memory"
    if needs.cpus > cores:
        way_out = "Workers will share cores: ask for fewer, or run on a cluster"
        return Finding("machine", "warning", f"{found}, but workers ask for {needs.cpus:g} CPUs", way_out)
    return Finding("machine", "ok", found)


def _trainer(engine: CommandEngine) -> Finding:
    """The folder and the program, or the module, of a trainer of one's own; nothing of it is run."""
    folder = Path(engine.folder)
    if not folder.is_dir():
        found = f"engine.folder must be a folder on every machine that runs, but {folder} is none"
        return Finding("trainer", "problem", found, "Make it, or name another")
    if engine.callable is not None:
        module = engine.callable.partition(":")[0].partition(".")[0]
        paths = [str(folder), *filter(None, engine.environment.get("PYTHONPATH", "").split(os.pathsep)), *sys.path]
        if PathFinder.find_spec(module, paths) is None:
            found = f"engine.callable must be importable, but there is no module {module!r} in {folder} or installed"
            return Finding("trainer", "problem", found, "Name another engine.folder, or install it")
        return Finding("trainer", "ok", f"{engine.callable} in {folder}")
    (program, *_) = engine.command or ("",)
    with suppress(KeyError):  # another placeholder: every run fills it in differently
        program = fill(program, {"python": sys.executable})
        there = folder / program if os.sep in program else program
        if shutil.which(there, path=engine.environment.get("PATH")) is None:
            found = f"engine.command must begin with a program that can be started, but {str(there)!r} is none"
            return Finding("trainer", "problem", found, "Name its path, or install it")
    return Finding("trainer", "ok", f"{program} in {folder}")


def _storage(storage: Storage) -> Iterable[Finding]:
    root = storage.root
    if not isinstance(root, Path):
        try:
            storage.prepare()
        except RaystudyError as error:
            yield Finding("storage", "problem", str(error), "See docs/storage.md")
        else:
            yield Finding("storage", "ok", f"{root} can be written, and the first of two writers wins")
        yield _cache()
        return
    trouble = _unwritable(root, broken_promise)
    way_out = "Name another with --storage, or mend the rights there"
    if trouble:
        yield Finding("storage", "problem", f"{root}: {trouble}", way_out)
        return
    yield Finding("storage", "ok", f"{root} can be written, and the first of two writers wins")
    yield _free(root, "the storage", "Free some, or name another storage: a full one stops a launch")


def _cache() -> Finding:
    """Where this machine will keep what it fetches from a remote storage."""
    try:
        folder = cache_folder()
    except RaystudyError as error:
        return Finding("cache", "problem", str(error))
    trouble, way_out = _unwritable(folder, _not_written), f"Set {CACHE} to a folder of this machine with more room"
    if trouble:
        return Finding("cache", "problem", f"{folder}: {trouble}", way_out)
    return _free(folder, f"{folder}, where shards are fetched to", way_out)


def _free(folder: Path, shown: str, way_out: str) -> Finding:
    free = shutil.disk_usage(nearest_folder(folder)).free
    few = free < _LEAST_FREE_DISK
    return Finding("disk", "warning" if few else "ok", f"{gib(free)} free at {shown}", way_out if few else "")


def _unwritable(folder: Path, trial: Callable[[Path], str]) -> str:
    """Why files cannot be made in `folder`, or where it would be made; empty where they can."""
    place = nearest_folder(folder)
    probe = place / f".raystudy-doctor-{os.getpid()}-{id(folder)}"
    try:
        if not place.is_dir():
            return f"{place} is no folder"
        return trial(probe)
    except OSError as error:
        return error.strerror or str(error)
    except RaystudyError as error:
        return str(error)
    finally:
        with suppress(OSError):
            probe.unlink()


def _not_written(probe: Path) -> str:
    return "" if write_bytes(probe, b"raystudy", durable=False) else "no file can be made"


def nearest_folder(folder: Path) -> Path:
    """The folder itself, or what is there of the path to it."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder

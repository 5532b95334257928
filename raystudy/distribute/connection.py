"""Which Ray cluster a launch uses: the job it runs in, `--address` or RAY_ADDRESS, else one of its own.

Never a stranger's: without an address a local cluster is started and ended with the launch.
"""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from raystudy.distribute.own_ray import kept_to_this_machine, own_options
from raystudy.errors import MissingPackageError, RaystudyError

_ANSWER_SECONDS = 10.0
_DEATHS = (
    "A worker died or was killed while executing",
    "Raylet is terminated.",
    "has been marked dead because",
    "An unexpected internal error occurred while the worker was executing a task",
)
# Set before ray is imported: no phoning home, trials stay in our working folder, no per-trial log files.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # Tune must not start a cluster of its own when this one has been stopped
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "100000",  # how many trials wait at once, so that a cluster grows, we say ourselves
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


# Of Ray Train, in the process that starts a run; Ray hands them on from there to the controller and the workers.
_TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon the end of a run is seen: 2 s delay short runs
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "3600",  # 60 s are too few where others use the cluster, or it grows
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",
}


def set_up_process() -> None:
    """What Ray is to find in the environment of this process; what a person has set stays."""
    for name, value in {**_ENVIRONMENT, **_TRAIN_ENVIRONMENT}.items():
        os.environ.setdefault(name, value)


def need_train() -> None:
    """See that Ray Train is there, without loading torch.

    Raises:
        MissingPackageError: it is not.
    """
    import_ray()
    try:
        import ray.train  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f"ray[train] must be installed to train with several workers on a cluster ({error}). Install "
            f"raystudy[cluster], or add --local"
        ) from error


def import_ray() -> Any:
    """The ray module, set up for raystudy.

    Raises:
        MissingPackageError: ray is not installed.
    """
    set_up_process()
    try:
        import ray
    except ImportError as error:
        raise MissingPackageError(
            "ray must be installed to run on a cluster. Install raystudy[cluster], or add --local"
        ) from error
    return ray


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Connect to the cluster of this launch; shut down only what was started here.

    Raises:
        RaystudyError: there is no cluster at the address.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    wanted = address or os.environ.get("RAY_ADDRESS") or "local"
    _check_answers(wanted)
    options: dict[str, Any] = {"address": wanted, "log_to_driver": False, "logging_level": "ERROR"}
    if is_own := wanted == "local":
        options |= own_options()
    _leave_deaths_to_us()
    with kept_to_this_machine() if is_own else nullcontext():
        try:
            with _own_signal_handlers():
                ray.init(**options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise _no_answer(wanted, first) from error
        try:
            yield ray
        finally:
            ray.shutdown()


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Put the launch's own handlers back in place of those that ray.init sets, which end the process at once."""
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_deaths_to_us() -> None:
    """Keep Ray from printing a paragraph, and Tune a traceback, for each worker or node that dies, which we tell."""
    from ray._private import worker

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)

    shown = getattr(worker, "print_to_stdstream", None)
    if shown is None or hasattr(shown, "of_raystudy"):
        return

    def show(data: dict[str, Any], *others: Any, **named: Any) -> None:
        is_death = any(death in str(line) for death in _DEATHS for line in data.get("lines", ()))
        if data.get("pid") != "raylet" or not is_death:
            shown(data, *others, **named)

    show.of_raystudy = True  # type: ignore[attr-defined]
    worker.print_to_stdstream = show


def _no_answer(address: str, why: str) -> RaystudyError:
    return RaystudyError(
        f"a Ray cluster must answer at {address!r}, but: {why}. Check --address, RAY_ADDRESS and, with token "
        f"authentication, RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH; or add --local"
    )


def _check_answers(address: str) -> None:
    """See in seconds that something listens at host:port; ray.init would try for minutes.

    Raises:
        RaystudyError: nothing does, or the address is of a kind that Tune does not support.
    """
    if "://" in address:
        raise _no_answer(address, "an address is host:port of the cluster's head, without a scheme")
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        return  # "local", "auto": ray knows
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()
    except OSError as error:
        raise _no_answer(address, str(error)) from error

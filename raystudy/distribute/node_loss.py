"""Whether a worker died because its node went: a spot instance taken back, a raylet killed, a machine off.

Such a loss says nothing of the run. Where the cluster told Ray beforehand, Ray says so itself; else the node is found
to be dead some seconds after its workers do not answer any more.
"""

import time
from collections.abc import Iterator
from typing import Any

# Until Ray must have found a dead node to be dead. Of a worker that does not answer: five looks, three seconds apart,
# and a margin. Of one that its node told of: a node that ends in order says so at once.
_SILENT_SECONDS, _TOLD_SECONDS = 40.0, 2.0
_LOOK_SECONDS = 0.5


def died_with_node(ray: Any, error: BaseException | None, seconds: float) -> bool | None:
    """Whether `error`, met so many seconds ago, is the loss of a node; None: that is not known yet."""
    told = [_of_actor(ray, one, seconds) for one in _chain(error) if _is_actor_error(one)]
    if any(told):
        return True
    return None if None in told else False


def settled(ray: Any, error: BaseException | None) -> bool:
    """The same of an error just met, waiting until it is known."""
    met = time.monotonic()
    while (told := died_with_node(ray, error, time.monotonic() - met)) is None:
        time.sleep(_LOOK_SECONDS)
    return told


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """What is told, and what that was made of."""
    seen: list[BaseException] = []
    left: list[Any] = [error]
    while left:
        one = left.pop()
        if isinstance(one, BaseException) and one not in seen:
            seen.append(one)
            yield one
            left += [one.__cause__, getattr(one, "health_check_failure", None), getattr(one, "cause", None)]


def _is_actor_error(error: BaseException) -> bool:
    return any(kind.__name__ == "RayActorError" for kind in type(error).__mro__)


def _of_actor(ray: Any, error: BaseException, seconds: float) -> bool | None:
    if getattr(error, "preempted", False):
        return True
    node = _node_of(getattr(error, "actor_id", None))
    is_alive = {each["NodeID"]: bool(each["Alive"]) for each in ray.nodes()}
    if node not in is_alive:
        return "node has died" in str(error)
    if not is_alive[node]:
        return True
    patience = _SILENT_SECONDS if type(error).__name__ == "ActorUnavailableError" else _TOLD_SECONDS
    return None if seconds < patience else False


def _node_of(actor_id: str | None) -> str:
    """The id of the node that an actor is or was on; empty where it is not known."""
    if not actor_id:
        return ""
    try:
        from ray._private.state import actors

        return str(actors(actor_id).get("Address", {}).get("NodeID", ""))
    except Exception:  # private to Ray, which has no public way to ask without its dashboard
        return ""

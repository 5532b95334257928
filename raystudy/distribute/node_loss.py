"""Whether a worker died because its node went: a spot instance taken back, a raylet killed, a machine off.

Such a loss says nothing of the run. Where the cluster told Ray beforehand, Ray says so itself; else the node is found
to be dead some seconds after its workers do not answer any more.
"""

import re
import time
from collections.abc import Iterator
from typing import Any

# Until Ray must have found a dead node to be dead. Of a worker that does not answer: five looks, three seconds apart,
# and a margin. Of one that its node told of: a node that ends in order says so at once.
_SILENT_SECONDS, _TOLD_SECONDS = 40.0, 2.0
_LOOK_SECONDS = 0.5
# How Ray names an actor in the text of an error: of one that died, and of one that does not answer.
_DEAD = re.compile(r"^\s*actor_id: ([0-9a-f]+)$", re.MULTILINE)
_SILENT = re.compile(r"\bThe actor ([0-9a-f]+) is unavailable")
# How the text of an exception that a worker itself raised begins, and where Ray's own words begin in such a one.
_RAISED = "ray::"
_WORDS_OF_RAY = re.compile(r"^(?:\w+\.)*(?:RayActorError|ActorDiedError|ActorUnavailableError): ", re.MULTILINE)


def died_with_node(ray: Any, error: BaseException | None, seconds: float) -> bool | None:
    """Whether `error`, met so many seconds ago, is the loss of a node; None: that is not known yet."""
    told = [_of_error(ray, one, seconds) for one in _chain(error) if _is_actor_error(one)]
    if any(told):
        return True
    return None if None in told else False


def text_tells_loss(ray: Any, text: str, seconds: float) -> bool | None:
    """The same of what Tune leaves of an error: its text, without colours.

    Of what a worker itself raised, whatever it says, only the loss of an actor that it had asked something counts.
    """
    if text.startswith(_RAISED):
        words = [found.end() for found in _WORDS_OF_RAY.finditer(text)]
        text = text[words[-1] :] if words else ""
    silent, dead = _SILENT.search(text), _DEAD.search(text)
    found = silent or dead
    return _of_actor(ray, found[1], text, seconds, is_silent=silent is not None) if found else False


def node_of_text(text: str) -> str:
    """The id of the node on which the actor of such a text was; empty where that is not known, or it did not die."""
    found = None if text.startswith(_RAISED) else _SILENT.search(text) or _DEAD.search(text)
    return _node_of(found[1]) if found else ""


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


def _of_error(ray: Any, error: BaseException, seconds: float) -> bool | None:
    if getattr(error, "preempted", False):
        return True
    is_silent = type(error).__name__ == "ActorUnavailableError"
    return _of_actor(ray, getattr(error, "actor_id", None), str(error), seconds, is_silent=is_silent)


def _of_actor(ray: Any, actor_id: str | None, text: str, seconds: float, *, is_silent: bool) -> bool | None:
    node = _node_of(actor_id)
    is_alive = {each["NodeID"]: bool(each["Alive"]) for each in ray.nodes()}
    if node not in is_alive:
        return "node has died" in text
    if not is_alive[node]:
        return True
    return None if seconds < (_SILENT_SECONDS if is_silent else _TOLD_SECONDS) else False


def _node_of(actor_id: str | None) -> str:
    """The id of the node that an actor is or was on; empty where it is not known."""
    if not actor_id:
        return ""
    try:
        from ray._private.state import actors

        return str(actors(actor_id).get("Address", {}).get("NodeID", ""))
    except Exception:  # private to Ray, which has no public way to ask without its dashboard
        return ""

"""Where a study's finished runs are told of beside its storage: MLflow, Weights & Biases. Not in run ids."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from raystudy.specs.base import Name, Spec

_KNOWN_TO_MLFLOW = ("databricks", "databricks-uc")  # addresses that are a word


def _without_secrets(uri: str) -> str:
    """Refuse credentials in an address: they would lie on the storage."""
    try:
        parts = urlsplit(uri)
        has_secret = parts.username is not None or parts.password is not None
    except ValueError as error:
        raise ValueError(f"an address must be a URI or a path, but {error}") from error
    if has_secret:
        raise ValueError(
            "an address must hold no user and no password, which would be kept with the study. Set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, where the study runs"
        )
    return uri


def check_is_one_place(uri: str) -> str:
    """Refuse a path that leads elsewhere from another folder: a job's own is a copy that goes with it.

    Raises:
        ValueError: the address is a relative path, or a `file:` or `sqlite:` URI with one.
    """
    scheme, colon, rest = uri.partition(":")
    if scheme == "sqlite" and colon:
        is_one = rest.startswith("////")  # three slashes begin a relative path
    elif scheme == "file" and colon:
        is_one = rest.startswith("/") and (rest.startswith("///") or not rest.startswith("//"))
    else:
        is_one = bool(colon) or uri.startswith("/") or uri in _KNOWN_TO_MLFLOW
    if not is_one:
        raise ValueError(
            f"an address must be a server's, or an absolute path, but {uri!r} is relative to the folder that it is "
            f"read in, which for a job is a copy that goes with it. Write http://HOST:PORT, /ABSOLUTE/PATH or "
            f"sqlite:////ABSOLUTE/PATH"
        )
    return uri


class MlflowTracker(Spec):
    """An experiment of an MLflow server."""

    experiment: Name | None = Field(default=None, description="default: the study's name")
    tracking_uri: Annotated[str, AfterValidator(_without_secrets), AfterValidator(check_is_one_place)] | None = Field(
        default=None, description="of the server; default: MLFLOW_TRACKING_URI where the study runs"
    )


class WandbTracker(Spec):
    """A project of Weights & Biases."""

    project: Name | None = Field(default=None, description="default: the study's name")
    entity: Name | None = Field(default=None, description="user or team; default: that of WANDB_API_KEY")
    mode: Literal["online", "offline"] = Field(
        default="online", description="offline: kept in WANDB_DIR, or in the study's folder, for `wandb sync`"
    )


class Tracking(Spec):
    """Who is told of every finished run."""

    mlflow: MlflowTracker | None = None
    wandb: WandbTracker | None = None

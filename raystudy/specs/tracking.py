"""Where a study's finished runs are told of beside its storage: MLflow, Weights & Biases. Not in run ids."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from raystudy.specs.base import Name, Spec


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


class MlflowTracker(Spec):
    """An experiment of an MLflow server."""

    experiment: Name | None = Field(default=None, description="default: the study's name")
    tracking_uri: Annotated[str, AfterValidator(_without_secrets)] | None = Field(
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

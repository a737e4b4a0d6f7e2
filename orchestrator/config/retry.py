"""The config's retry block: how often a run may fail, by class of cause."""

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["RetryModel", "retry_block"]


class RetryModel(BaseModel):
    """How often a run may fail before it is given up, by cause.

    The first three are the project's own faults, and are counted over the whole run. The others
    are not: an epoch that is completed pays them back.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True
    )

    user_errors: int = Field(1, ge=0, le=1000, description="exceptions of the training")
    nan_losses: int = Field(2, ge=0, le=1000, description="the loss became NaN or infinite")
    out_of_memory: int = Field(16, ge=0, le=1000, description="each is followed by a smaller cut")
    hangs: int = Field(3, ge=0, le=1000, description="no sign of life for far too long")
    device_faults: int = Field(10, ge=0, le=1000, description="the card or its driver failed")
    disk_full: int = Field(12, ge=0, le=1000, description="no room for a checkpoint; waits longer")
    storage_faults: int = Field(12, ge=0, le=1000, description="an object store could not be used")
    node_losses: int = Field(50, ge=0, le=1000, description="the node vanished")
    kills: int = Field(10, ge=0, le=1000, description="ended by somebody else")
    losses_without_progress: int = Field(
        10, ge=0, le=1000, description="worker processes that died or did not come up"
    )


def retry_block(value: object) -> object:
    """A number alone means `user_errors`."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"user_errors": value}
    return value

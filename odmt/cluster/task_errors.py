"""What went wrong in a Ray task, told here as it was raised there."""

from typing import Any

from odmt.errors import OdmtError


def cause_of(error: Any) -> BaseException:
    """Return the error of ours that a task raised; what Ray raised if it is none of ours."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, OdmtError) else error

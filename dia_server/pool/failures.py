"""What goes wrong in a worker, in the words that a client gets."""

from __future__ import annotations

from dia_server.errors import BadInput, DiaServerError, GenerationFailed, ModelUnavailable
from dia_server.tasks import Failed


def error_of(failed: Failed) -> DiaServerError:
    """Why a task has no result."""
    if failed.is_input_wrong:
        return BadInput(failed.message)
    if failed.is_unavailable:
        return ModelUnavailable(failed.message, retry_after=60)
    return GenerationFailed(failed.message)


def not_loaded(model: str, message: str) -> ModelUnavailable:
    """A worker could not load the model that a task wants."""
    return ModelUnavailable(
        f"Model '{model}' can't be loaded: {message}. The server's log says more, and `dia-server doctor` what to do",
        retry_after=30,
    )

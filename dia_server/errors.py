"""Every error that a user may see: one tree, each class with its HTTP status and machine-readable code.

The API layer turns these into the envelope of the route's family; the command line prints the message.
Messages say what was wrong, what is allowed, and what to do.
"""

from __future__ import annotations


class DiaServerError(Exception):
    """Base of all expected errors.

    Attributes:
        status: HTTP status of the answer.
        code: stable, machine-readable name of what went wrong.
        param: the request field at fault, if one is.
        retry_after: seconds after which the same request may succeed, if waiting helps.
        final: the same request will fail again, however often it is sent.
    """

    status = 500
    code = "server_error"
    retry_after: int | None = None
    final = False

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class BadInput(DiaServerError):
    """The request can't be served as it stands."""

    status = 400
    code = "invalid_value"


class NothingToSpeak(BadInput):
    """The text holds nothing that can be spoken."""

    code = "nothing_to_speak"


class NotAuthenticated(DiaServerError):
    """The route wants an API key, and the request brings none that counts."""

    status = 401
    code = "invalid_api_key"


class UnsupportedMediaType(DiaServerError):
    """The body is not of the content type that the route takes."""

    status = 415
    code = "unsupported_media_type"


class NotFound(DiaServerError):
    """A named thing doesn't exist."""

    status = 404
    code = "not_found"


class PromptNotFound(NotFound):
    """No audio prompt of that name."""

    code = "prompt_not_found"


class JobNotFound(NotFound):
    """No job of that id."""

    code = "job_not_found"


class Conflict(DiaServerError):
    """The name is taken, or what it names is in use."""

    status = 409
    code = "conflict"


class TooLarge(DiaServerError):
    """A part of the request is larger than the settings allow."""

    status = 413
    code = "body_too_large"


class ClientLeft(DiaServerError):
    """Nobody reads the answer; the status, nginx's, is for the log."""

    status = 499
    code = "client_left"


class ModelNotFound(NotFound):
    """No model of that name."""

    code = "model_not_found"


class VoiceNotFound(NotFound):
    """No voice of that name."""

    code = "voice_not_found"


class Unavailable(DiaServerError):
    """The server can't take the work now; the same request may succeed later."""

    status = 503
    code = "unavailable"

    def __init__(self, message: str, *, retry_after: int = 1, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.retry_after = retry_after


class RateLimited(Unavailable):
    """The caller has made as many requests as the settings allow."""

    status = 429
    code = "rate_limit_exceeded"


class QueueFull(Unavailable):
    """As much work is waiting as the settings allow."""

    code = "queue_full"


class Draining(Unavailable):
    """The server is shutting down and takes no new work."""

    code = "draining"


class NoWorker(Unavailable):
    """No worker is up, and none is about to be."""

    code = "no_worker"


class WorkersDie(NoWorker):
    """Those that there could be die at every start, which may be the work's own fault."""


class ModelUnavailable(Unavailable):
    """The model is installed, but can't be loaded."""

    code = "model_unavailable"
    final = True


class TooManyUploads(Unavailable):
    """As many uploads are open as the settings allow."""

    code = "too_many_uploads"


class StorageUnavailable(Unavailable):
    """The home can't be written to."""

    code = "storage_unavailable"


class DatabaseUnavailable(StorageUnavailable):
    """The database is locked, or can't be reached."""

    code = "database_unavailable"


class StorageFull(DiaServerError):
    """The disk is full."""

    status = 507
    code = "storage_full"


class DownloadFailed(DiaServerError):
    """Weights can't be fetched."""

    code = "download_failed"


class JobNotCompleted(DiaServerError):
    """There is no result yet."""

    status = 425
    code = "job_not_completed"


class DeadlineExceeded(Unavailable):
    """A listener waited for a segment longer than the settings allow."""

    code = "deadline_exceeded"


class GenerationFailed(DiaServerError):
    """The model failed on this input; the same request would fail again."""

    code = "generation_failed"
    final = True


class Damaged(DiaServerError):
    """What the server has kept can't be read any more."""

    code = "damaged"
    final = True


class ReplayMismatch(DiaServerError):
    """A replayed segment differs from the samples already delivered: the stream can't go on truthfully."""

    code = "replay_mismatch"


class SettingsError(DiaServerError):
    """The configuration file or the environment is wrong."""

    code = "invalid_settings"

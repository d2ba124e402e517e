"""The Dia server's route for GPUs."""

from __future__ import annotations

from litestar import get

from dia_server.api.documents import failures
from dia_server.services.gpus import Gpus, GpuStatus


@get(["/gpu/status", "/v1/gpu/status"], summary="GPUs", responses=failures(401), sync_to_thread=False)
def gpu_status(gpus: Gpus) -> GpuStatus:
    """Which GPUs there are and are used, whether models are loaded there, and their memory, a second old at most."""
    return gpus.status()

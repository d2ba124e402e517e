"""What a server and a worker have in common, wired together: the database, speech, and the runner of jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from dia_server.blobs import FOLDER as BLOBS
from dia_server.blobs import NEW_SECONDS, Blobs
from dia_server.database.database import Database, open_database
from dia_server.errors import DiaServerError
from dia_server.jobs.instance import home_id
from dia_server.jobs.leases import Leases
from dia_server.jobs.presence import Presence
from dia_server.jobs.results import FOLDER as RESULTS
from dia_server.jobs.results import Results
from dia_server.jobs.runner import Handler, Runner
from dia_server.jobs.store import JobStore
from dia_server.pool.pool import Pool
from dia_server.services import index_tts, speech_jobs
from dia_server.services.conditioning import Conditioning
from dia_server.services.emotions import Emotions
from dia_server.services.history import History
from dia_server.services.index_tts import IndexTts
from dia_server.services.index_tts_jobs import IndexTtsJobs
from dia_server.services.planner import Planner
from dia_server.services.recordings import Recordings
from dia_server.services.references import References
from dia_server.services.speech import Speech
from dia_server.services.speech_jobs import SpeechJobs
from dia_server.settings import Settings
from dia_server.voices.prompts import FOLDER, PromptStore
from dia_server.voices.store import VoiceStore

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Core:
    """The services over an opened home, a running pool and a database."""

    settings: Settings
    home: Path
    pool: Pool
    database: Database
    blobs: Blobs
    voices: VoiceStore
    prompts: PromptStore
    planner: Planner
    index_tts: IndexTts
    history: History
    speech: Speech
    jobs: JobStore
    presence: Presence
    results: Results
    runner: Runner


@asynccontextmanager
async def running_core(
    settings: Settings, home: Path, pool: Pool, name: str, *, takes_tasks: bool = True
) -> AsyncIterator[Core]:
    """The services of the process that runs jobs under this name; they end with the block.

    `takes_tasks` says whether those of IndexTTS2's API are among the jobs that it runs.

    Raises:
        SettingsError: the database can't be used, or not from here.
    """
    async with open_database(settings, home) as database:
        core = _wire(settings, home, pool, database, name, takes_tasks=takes_tasks)
        try:
            async with core.presence.announced(), core.history.running():
                yield core
        finally:
            core.speech.close()


async def sweep_blobs_for_ever(core: Core) -> None:
    """Sweep as often as blobs stop being new."""
    while True:
        await asyncio.sleep(NEW_SECONDS)
        try:
            await sweep_blobs(core)
        except (DiaServerError, OSError) as error:
            log.warning("blobs can't be swept", reason=str(error))


async def sweep_blobs(core: Core) -> None:
    """Remove the recordings that nothing refers to any more."""
    names = await core.jobs.blobs() | await core.history.blobs()
    await asyncio.to_thread(core.blobs.sweep, list((core.home / FOLDER).glob("*")), names)


def _wire(settings: Settings, home: Path, pool: Pool, database: Database, name: str, *, takes_tasks: bool) -> Core:
    blobs = Blobs(home / BLOBS)
    voices = VoiceStore(home / "voices")
    prompts = PromptStore(home / FOLDER, settings)
    history = History(settings, database, home)
    speech = Speech(settings, pool, history)
    leases = Leases(database, settings, name)
    speaking = SpeechJobs(speech, history, blobs)
    handlers: dict[str, Handler] = {speech_jobs.KIND: speaking}
    if takes_tasks:
        conditioning = Conditioning(settings, pool, blobs)
        handlers[index_tts.KIND] = IndexTtsJobs(settings, home, blobs, conditioning, speaking)
    runner = Runner(leases, handlers, settings, home / RESULTS, pool.slots, pool.on_need)
    jobs = JobStore(database, settings, runner.wake)
    pool.at_drain(runner.halt)
    references = References(prompts, blobs)
    planner = Planner(settings, pool.choice, voices, references)
    recordings = Recordings(settings, home, blobs, voices, references)
    return Core(
        settings=settings,
        home=home,
        pool=pool,
        database=database,
        blobs=blobs,
        voices=voices,
        prompts=prompts,
        planner=planner,
        index_tts=IndexTts(settings, pool.choice, planner, recordings, Emotions(settings, pool)),
        history=history,
        speech=speech,
        jobs=jobs,
        presence=Presence(database, name, "" if database.is_sqlite else home_id(home), pool.crew),
        results=Results(jobs, settings, home),
        runner=runner,
    )

"""The database: does it answer, has it this version's schema, does its clock agree."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

from sqlalchemy import Engine, make_url, text

from peelbound.service.database.engine import database_clock, make_engine, reading, sqlite_file, writing
from peelbound.service.database.schema import newest_revision, revision_of
from peelbound.service.doctor.clock import skew
from peelbound.service.doctor.findings import Finding, ok, skipped, wrong
from peelbound.service.settings import Settings
from peelbound.workers.errors import PeelboundError


def examine_database(settings: Settings) -> Iterator[Finding]:
    """Findings `database`, `schema` and `database clock`; nothing is waited for, and nothing migrated."""
    try:
        file = sqlite_file(settings.resolved_database_url)
        if file is not None and not file.exists():
            yield skipped("database", f"There is no {file} yet; whatever starts first makes it.")
            return
        engine = make_engine(settings.resolved_database_url)
    except PeelboundError as error:
        yield wrong("database", error.detail, error.remedy)
        return
    try:
        yield from _examine(engine, settings)
    except PeelboundError as error:
        yield wrong("database", f"{_where(settings)}: {error.detail}", error.remedy)
    finally:
        engine.dispose()


def _examine(engine: Engine, settings: Settings) -> Iterator[Finding]:
    began = time.monotonic()
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql" and connection.scalar(text("SHOW transaction_read_only")) == "on":
            remedy = "Let PEELBOUND_DATABASE_URL name the primary; add ?target_session_attrs=read-write to find it."
            yield wrong("database", f"{_where(settings)} takes no writes: it is a standby.", remedy)
            return
    with reading(engine) as connection:
        asked = datetime.now(UTC)
        told = database_clock(connection)
        answered = datetime.now(UTC)
        yield ok("database", f"{_where(settings)} answers; {(time.monotonic() - began) * 1000:.0f} ms to connect.")
        try:
            revision = revision_of(connection)
        except PeelboundError as error:
            yield wrong("schema", error.detail, error.remedy)
        else:
            yield _schema(revision, engine)
    if engine.dialect.name == "sqlite":
        yield skipped("database clock", "SQLite has this machine's.")
    else:
        way = (answered - asked) / 2
        yield skew("database clock", "The database's clock", (told - asked - way).total_seconds(), way.total_seconds())


def _schema(revision: str | None, engine: Engine) -> Finding:
    wanted = newest_revision()
    if revision == wanted:
        return ok("schema", f"Revision {revision}, this version's.")
    found = "There is none yet" if revision is None else f"It has revision {revision}"
    if engine.dialect.name == "sqlite":
        return ok("schema", f"{found}; whatever opens the file next brings it to {wanted}.")
    return wrong("schema", f"{found}; this version wants {wanted}.", "Run: peelbound migrate")


def _where(settings: Settings) -> str:
    return make_url(settings.resolved_database_url).render_as_string(hide_password=True)

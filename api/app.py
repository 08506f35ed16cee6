"""The HTTP front end: `python -m peelbound.api`, or `uvicorn --factory peelbound.api.app:create_app`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from prometheus_client import CollectorRegistry

from peelbound import __version__
from peelbound.api import problems
from peelbound.api.access_log import AccessLog
from peelbound.api.context import Context
from peelbound.api.draining import Draining
from peelbound.api.failures import Failures
from peelbound.api.gate import Gate
from peelbound.api.hosts import HostGuard
from peelbound.api.limits import BodyLimit
from peelbound.api.metrics import RequestMetrics, ServiceMetrics
from peelbound.api.openapi import document
from peelbound.api.origins import Origins
from peelbound.api.planning import Planner
from peelbound.api.rates import Rates
from peelbound.api.readiness import Readiness
from peelbound.api.request_ids import RequestIds
from peelbound.api.routes import audits, index, log, operations, plans, reports, runs, webhooks
from peelbound.api.tracing import Traced
from peelbound.service.settings import Settings
from peelbound.service.tracing import tracing


def create_app(settings: Settings | None = None, draining: Draining | None = None) -> FastAPI:
    """The application; database and store are opened when it starts, not when it is made.

    Args:
        settings: taken from the environment if None.
        draining: told by whoever serves it before it ends; None: nobody does.
    """
    settings = Settings() if settings is None else settings
    draining = Draining() if draining is None else draining
    registry = CollectorRegistry()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        context = await run_in_threadpool(Context.open, settings, draining)
        registry.register(ServiceMetrics(context, current_default_thread_limiter()))
        app.state.context = context
        app.state.planner = Planner(settings)
        app.state.readiness = Readiness(context)
        app.state.registry = registry
        with tracing(settings, "peelbound-api"):
            yield
        context.close()

    app = FastAPI(
        title="Peelbound",
        version=__version__,
        summary="Audits transformer checkpoints: what did training leave on the table, and where?",
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    # The last one added sees a request first.
    app.add_middleware(BodyLimit, max_bytes=settings.max_request_bytes)
    app.add_middleware(Gate, rates=Rates(settings.requests_per_second, settings.request_burst))
    if settings.allowed_origins:
        app.add_middleware(Origins, origins=settings.allowed_origins)  # before the gate: preflights bring no token
    app.add_middleware(HostGuard, hosts=settings.allowed_hosts, origins=settings.allowed_origins)
    app.add_middleware(Failures)
    app.add_middleware(RequestMetrics, registry=registry)
    app.add_middleware(AccessLog)
    app.add_middleware(Traced)
    app.add_middleware(RequestIds)
    problems.install(app)
    for module in (audits, plans, reports, runs, webhooks, log, operations, index):
        app.include_router(module.router)
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    return app

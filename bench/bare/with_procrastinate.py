"""`python -m procrastinate --app bench.bare.with_procrastinate.app worker`."""

import os

from procrastinate import App, PsycopgConnector

from bench.bare import job


def made(url: str) -> App:
    app = App(connector=PsycopgConnector(conninfo=url))
    app.task(name="job", queue="jobs")(job)

    # Nobody takes what a dead worker held unless told to; the manual's example looks every ten minutes.
    @app.periodic(cron="* * * * * */5")
    @app.task(name="retry-stalled", queue="tuned", queueing_lock="retry-stalled")
    async def retry_stalled(timestamp: int) -> None:
        for stalled in await app.job_manager.get_stalled_jobs(queue="jobs"):
            await app.job_manager.retry_job(stalled)

    return app


app = made(os.environ.get("DATABASE_URL", ""))

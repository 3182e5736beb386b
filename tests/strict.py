"""With CI_STRICT=1 a skipped test fails the session: in CI everything a test could miss is installed.

A pytest plugin, loaded by conftest.py. Under xdist it acts
in the controller, which gets every worker's reports.
"""

import os

import pytest


def skips(config: pytest.Config) -> list[str]:
    """`where: reason` of each skip, empty unless strict and in the process that reports."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI_STRICT") != "1" or reporter is None:
        return []
    reports: list[pytest.TestReport | pytest.CollectReport] = reporter.stats.get("skipped", [])
    return [f"{report.nodeid}: {_reason(report)}" for report in reports]


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)


def pytest_sessionfinish(session: pytest.Session) -> None:
    # A session that failed otherwise keeps its own exit status.
    if session.exitstatus == pytest.ExitCode.OK and skips(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = skips(terminalreporter.config)
    if not skipped:
        return
    terminalreporter.section("CI_STRICT=1 allows no skip", red=True)
    for line in skipped:
        terminalreporter.write_line(line)

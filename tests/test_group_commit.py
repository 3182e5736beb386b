"""How often streamed text is committed."""

import pytest
from pytest_django import Settings

from chat.group_commit import interval


@pytest.mark.parametrize(
    ("least", "runs", "took", "seconds"),
    [
        (0.012, 1, 0.001, 0.0122),  # a reader sees words come, not drops
        (0.012, 100, 0.002, 0.032),  # each run's share has its cost further on
        (0.012, 1, 0.009, 0.03),  # everything is busy
        (0.012, 1000, 0.2, 0.05),  # not to be felt, whatever happens
        (0.1, 50, 0.001, 0.1),  # somebody wants fewer, larger ones
    ],
)
def test_commits_come_less_often_where_each_costs_more(
    settings: Settings, least: float, runs: int, took: float, seconds: float
) -> None:
    settings.CHAT_COMMIT_SECONDS = least
    assert interval(runs, took) == pytest.approx(seconds)

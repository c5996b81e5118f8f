"""Calls to W&B that fail or wait for ever, without W&B."""

from __future__ import annotations

from threading import Event

import pytest

from rad_lightning.common.errors import UserError
from rad_lightning.tracking import guard as guards
from rad_lightning.tracking.guard import Curves, Guard


@pytest.fixture(autouse=True)
def no_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "forget_helper", lambda: None)


def test_after_a_call_that_fails_there_are_no_more() -> None:
    guard, called = Guard(), []
    assert guard(lambda: 3) == 3 and guard.problem is None

    def lost() -> None:
        called.append(1)
        raise ConnectionResetError("Connection lost")

    assert guard(lost) is None and guard(lost) is None
    assert called == [1]
    assert guard.problem and "Connection lost" in guard.problem and "logger=csv" in guard.problem


def test_curves_go_on_in_silence() -> None:
    class Run:
        def log(self, values: dict[str, float]) -> None:
            raise BrokenPipeError

    curves = Curves(Run(), Guard())
    for step in range(3):
        curves.log_metrics({"train/nll": 1.0}, step)
    assert curves.guard.problem


def test_a_helper_that_does_not_answer_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = Event()
    monkeypatch.setattr(guards, "end_helper", ended.set)

    def waits() -> None:
        assert ended.wait(60)
        raise ConnectionError

    guard = Guard()
    guard(waits, patience=0.01)
    assert guard.problem and "does not answer" in guard.problem


def test_a_mistake_of_the_user_stays_one() -> None:
    def refused() -> None:
        raise UserError("not logged in")

    with pytest.raises(UserError, match="not logged in"):
        Guard()(refused)

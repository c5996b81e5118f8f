"""docs/errors.md has every message of the package, and says what to do about each."""

from __future__ import annotations

import ast

import pytest

import messages


def test_the_page_has_every_message_and_no_other() -> None:
    on_page = messages.answers(messages.PAGE.read_text(encoding="utf-8"))
    known = set(messages.messages())
    assert len(known) > 100  # else none were found
    again = "run python tests/messages.py, then fill in what to do"
    assert not known - set(on_page), again
    assert not set(on_page) - known, again


def test_the_page_says_what_to_do_about_each() -> None:
    on_page = messages.answers(messages.PAGE.read_text(encoding="utf-8"))
    assert not [message for message, answer in on_page.items() if not answer]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("UserError(f'{a}: no such file {b!r}')", ["…: no such file …"]),
        ("UserError('use x, ' + f'not {y}')", ["use x, not …"]),
        ("UserError('one' if a else f'two {b}')", ["one", "two …"]),
        ("BadImage(path, f'damaged ({e})')", ["damaged (…)"]),
        ("UserError(reason)", ["…"]),
        ("print('no error')", []),
    ],
)
def test_messages_are_read_from_the_source(source: str, expected: list[str]) -> None:
    call = ast.parse(source, mode="eval").body
    assert list(messages.texts(call)) == expected


def test_a_message_that_changes_a_little_keeps_its_answer() -> None:
    known = {"data.root = …: no such folder": "give another one"}
    assert messages.answer_to("data.root = …: no such folder here", known) == "give another one"
    assert messages.answer_to("seed = …: use a whole number", known) == ""

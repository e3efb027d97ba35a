"""Errors name the next step."""

from __future__ import annotations

import pytest

from raypipe.errors import BudgetError, DamageError, RequestError, remedied


def test_an_error_without_a_next_step_is_given_one_on_its_way():
    @remedied("look there")
    def read(fault: Exception) -> None:
        raise fault

    with pytest.raises(RequestError) as bare:
        read(RequestError("wrong"))
    assert bare.value.render() == "error: wrong\n  try: look there"
    with pytest.raises(BudgetError) as own:
        read(BudgetError("too much", "look here"))
    assert own.value.render() == "error: too much\n  try: look here"
    with pytest.raises(ValueError, match="other"):
        read(ValueError("other"))


def test_damage_is_looked_at_with_verify():
    assert "raypipe verify RUN" in DamageError("torn").render()


def test_what_is_quoted_cannot_steer_the_terminal():
    shown = RequestError("unknown setting 'a\x1b[31m\tb\udc80é漢'", "leave it out").render()
    assert shown == "error: unknown setting 'a\\x1b[31m\\tb\\udc80é漢'\n  try: leave it out"
    shown.encode()

"""What children find in their environment."""

import pytest

from app.engine.environment import environment


@pytest.mark.parametrize("role", ["http", "worker"])
def test_a_child_has_this_process_s_environment_and_keeps_freed_memory(
    role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMETHING", "else")
    found = environment(role)
    assert found["SOMETHING"] == "else"
    assert int(found["MALLOC_TRIM_THRESHOLD_"]) > 2**20


def test_what_the_operator_says_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    assert environment("http")["MALLOC_ARENA_MAX"] == "7"

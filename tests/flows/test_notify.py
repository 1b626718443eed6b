"""Notifications over real HTTP and SMTP, and a planted secret that must not show anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.configuration import parse
from components.errors import InkwellError
from flows.notify import main, tell

SECRET = "planted-7f3a91c2"


def _parameters(folder: Path, **notifications: Any) -> None:
    values = {"ingest": {"sources": [{"name": "a", "kind": "path", "location": "a"}]}, "notifications": notifications}
    (folder / "params.yaml").write_text(json.dumps(values))


def test_everyone_hears_and_no_secret_shows(
    tmp_path: Path,
    mailbox: tuple[int, list[str]],
    posts: tuple[str, list[tuple[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    port, mails = mailbox
    address, received = posts
    monkeypatch.setenv("TEST_SLACK", f"{address}/services/{SECRET}")
    monkeypatch.setenv("TEST_HOOK", f"{address}/hook?token={SECRET}")
    monkeypatch.setenv("TEST_SMTP", f"smtp://robot:{SECRET}@127.0.0.1:{port}")
    _parameters(
        tmp_path,
        slack="env:TEST_SLACK",
        webhook="env:TEST_HOOK",
        smtp="env:TEST_SMTP",
        mail_to=["ada@example.org", "eve@example.org"],
    )
    assert tell(tmp_path, "promoted", "version 2 is the champion: 春江") == []
    assert received[0] == (
        f"/services/{SECRET}",
        {"text": "*Inkwell: a new champion*\nversion 2 is the champion: 春江"},
    )
    assert received[1][1] == {
        "event": "promoted",
        "subject": "Inkwell: a new champion",
        "text": "version 2 is the champion: 春江",
    }
    assert any(line.startswith("AUTH PLAIN") for line in mails)
    assert sum(line.lower().startswith("rcpt to") for line in mails) == 2
    assert "Subject: Inkwell: a new champion" in mails
    assert tell(tmp_path, "kept", "not asked for") == []
    assert len(received) == 2
    said = capfd.readouterr()
    assert SECRET not in said.out + said.err


def test_one_that_fails_is_told_without_its_address_and_the_others_hear(
    tmp_path: Path,
    posts: tuple[str, list[tuple[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    address, received = posts
    monkeypatch.setenv("TEST_SLACK", f"{address}/broken/{SECRET}")
    monkeypatch.setenv("TEST_HOOK", f"{address}/hook")
    monkeypatch.setenv("TEST_SMTP", f"smtp://robot:{SECRET}@127.0.0.1:1")
    _parameters(tmp_path, slack="env:TEST_SLACK", webhook="env:TEST_HOOK", smtp="env:TEST_SMTP", mail_to=["a@b.org"])
    assert tell(tmp_path, "failed", "a stage failed") == ["slack", "smtp"]
    assert len(received) == 2
    said = capfd.readouterr().err
    assert "slack (env:TEST_SLACK) was not reached: it answered 500." in said
    assert SECRET not in said
    monkeypatch.setenv("TEST_HOOK", f"not-an-address-{SECRET}")
    assert "webhook" in tell(tmp_path, "failed", "again")
    assert SECRET not in capfd.readouterr().err


def test_an_address_in_the_parameters_is_refused_and_not_repeated() -> None:
    with pytest.raises(InkwellError) as error:
        parse(
            {
                "ingest": {"sources": [{"name": "a", "kind": "path", "location": "a"}]},
                "notifications": {"slack": f"https://hooks.example.org/{SECRET}"},
            }
        )
    assert "env:NAME" in str(error.value)
    assert SECRET not in str(error.value)


def test_a_trial_message_needs_a_channel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _parameters(tmp_path)
    assert main(["--test", "--workspace", str(tmp_path)]) == 2
    assert "nobody would hear" in capsys.readouterr().err
    _parameters(tmp_path, slack="env:INKWELL_NOT_SET_ANYWHERE")
    assert main(["--test", "--workspace", str(tmp_path)]) == 2
    assert "no variable INKWELL_NOT_SET_ANYWHERE" in capsys.readouterr().err

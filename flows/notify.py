"""Tell people what happened, by Slack, mail or a webhook of their own (`notifications` in params.yaml).

    python -m flows.notify --test            one message to everything that is configured

Addresses and logins come from environment variables or Prefect blocks by name; they are never printed, logged or kept.
A notification that fails is told on standard error and fails nothing else.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InkwellError

if TYPE_CHECKING:
    from components.configuration import Notifications

CHANNELS = ("slack", "webhook", "smtp")
SUBJECTS = {
    "promoted": "Inkwell: a new champion",
    "kept": "Inkwell: the champion stays",
    "failed": "Inkwell: a run failed",
    "rolled_back": "Inkwell: rolled back",
}


def tell(workspace: Path, event: str, text: str) -> list[str]:
    """Send `text` wherever `notifications` says, if it asks for `event`; returns the names of channels that failed."""
    from components.configuration import load

    notifications = load(workspace / "params.yaml").notifications
    if event not in notifications.events:
        return []
    return send(notifications, SUBJECTS[event], text, event)


def send(notifications: Notifications, subject: str, text: str, event: str) -> list[str]:
    """Send to every channel; one that fails does not keep the others from hearing. Returns the names of those that failed."""
    failed = []
    for name, where in configured(notifications).items():
        try:
            address = address_of(name, where)
            if name == "smtp":
                _mail(address, notifications, subject, text)
            else:
                _post(address, body(name, event, subject, text), notifications.timeout_seconds)
        except Exception as error:
            # the message of an error may hold the address, and an address may be a secret: only its kind is told
            told = str(error) if isinstance(error, InkwellError) else type(error).__name__
            print(f"notify: {name} ({where}) was not reached: {told}", file=sys.stderr)
            failed.append(name)
    return failed


def configured(notifications: Notifications) -> dict[str, str]:
    """env:NAME or block:NAME of each channel that is asked for, by the channel's name."""
    return {name: where for name in CHANNELS if (where := getattr(notifications, name)) is not None}


def body(channel: str, event: str, subject: str, text: str) -> dict[str, str]:
    """What "slack" or "webhook" gets by POST."""
    if channel == "slack":
        return {"text": f"*{subject}*\n{text}"}
    return {"event": event, "subject": subject, "text": text}


def address_of(channel: str, where: str) -> str:
    """What env:NAME or block:NAME stands for: a secret. InkwellError for a variable that is not set."""
    import os

    kind, _, name = where.partition(":")
    if kind == "env":
        found = os.environ.get(name)
        if not found:
            raise InkwellError(f"the environment has no variable {name} (notifications.{channel}).")
        return found
    from flows.pipeline import set_environment

    set_environment()
    if channel == "smtp":
        from prefect.blocks.system import Secret

        return str(Secret.load(name).get())  # type: ignore[union-attr]
    if channel == "slack":
        from prefect.blocks.notifications import SlackWebhook

        return str(SlackWebhook.load(name).url.get_secret_value())  # type: ignore[union-attr]
    from prefect.blocks.webhook import Webhook

    return str(Webhook.load(name).url.get_secret_value())  # type: ignore[union-attr]


def _post(address: str, body: dict[str, Any], seconds: float) -> None:
    import httpx

    if not address.startswith(("http://", "https://")):
        raise InkwellError("it holds no http:// or https:// address.")
    try:
        answer = httpx.post(address, json=body, timeout=seconds, follow_redirects=False)
    except httpx.TimeoutException as error:
        raise InkwellError(f"no answer within {seconds:g} seconds.") from error
    except httpx.HTTPError as error:
        raise InkwellError(f"no connection ({type(error).__name__}).") from error
    if answer.status_code >= 300:
        raise InkwellError(f"it answered {answer.status_code}.")


@dataclass(frozen=True)
class MailServer:
    """Where mail is handed over. `encrypted`: from the first byte on."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    encrypted: bool

    @property
    def here(self) -> bool:
        """Whether it is this machine's own, which may be given a password in the open."""
        return self.host in ("127.0.0.1", "::1", "localhost")


def mail_server(address: str) -> MailServer:
    """smtp[s]://user:password@host:port in its parts; InkwellError for anything else, which is not repeated."""
    from urllib.parse import unquote, urlsplit

    wrong = "it holds no smtp://user:password@host:port."
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InkwellError(wrong) from error
    if parts.scheme not in ("smtp", "smtps") or not host:
        raise InkwellError(wrong)
    encrypted = parts.scheme == "smtps"
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return MailServer(host, port or (465 if encrypted else 587), user, password, encrypted)


def _mail(address: str, notifications: Notifications, subject: str, text: str) -> None:
    """One message to all; logs in only where the connection is encrypted or is this machine's own."""
    import smtplib
    import ssl
    from email.message import EmailMessage

    if not notifications.mail_to:
        raise InkwellError("notifications.mail_to names nobody.")
    there = mail_server(address)
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = (
        subject,
        notifications.mail_from,
        ", ".join(notifications.mail_to),
    )
    message.set_content(text)
    context, seconds = ssl.create_default_context(), notifications.timeout_seconds
    server = (
        smtplib.SMTP_SSL(there.host, there.port, timeout=seconds, context=context)
        if there.encrypted
        else smtplib.SMTP(there.host, there.port, timeout=seconds)
    )
    with server:
        server.ehlo()
        encrypted = there.encrypted
        if not encrypted and server.has_extn("starttls"):
            server.starttls(context=context)
            server.ehlo()
            encrypted = True
        if there.user:
            if not encrypted and not there.here:
                raise InkwellError("the mail server offers no encryption, and a password is not sent in the open.")
            server.login(there.user, there.password)
        server.send_message(message)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m flows.notify", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--test", action="store_true", required=True, help="send one message to everything configured")
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder of the pipeline (default: this one)")
    arguments = parser.parse_args(argv)
    try:
        from components.configuration import load

        notifications = load(arguments.workspace / "params.yaml").notifications
        channels = list(configured(notifications))
        if not channels:
            raise InkwellError(
                "params.yaml: notifications names neither slack nor webhook nor smtp: nobody would hear."
            )
        failed = send(notifications, "Inkwell: a test", "This is what a notification looks like.", "test")
    except InkwellError as error:
        print(f"notify: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("notify: interrupted.", file=sys.stderr)
        return 130
    print(f"sent: {', '.join(name for name in channels if name not in failed) or 'nothing'}")
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

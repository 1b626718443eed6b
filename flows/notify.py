"""Tell people what happened, by Slack, mail or a webhook of their own (`notifications` in params.yaml).

    python -m flows.notify --test            one message to everything that is configured

Addresses and logins come from environment variables or Prefect blocks by name; they are never printed, logged or kept.
A notification that fails is told on standard error and fails nothing else.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InkwellError

if TYPE_CHECKING:
    from components.configuration import Notifications

_SUBJECTS = {
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
    return send(notifications, _SUBJECTS[event], text, event)


def send(notifications: Notifications, subject: str, text: str, event: str) -> list[str]:
    """Send to every channel; one that fails does not keep the others from hearing. Returns the names of those that failed."""
    failed = []
    for name, address in (
        ("slack", notifications.slack),
        ("webhook", notifications.webhook),
        ("smtp", notifications.smtp),
    ):
        if address is None:
            continue
        try:
            secret = _secret(name, address)
            if name == "smtp":
                _mail(secret, notifications, subject, text)
            else:
                body = (
                    {"text": f"*{subject}*\n{text}"}
                    if name == "slack"
                    else {"event": event, "subject": subject, "text": text}
                )
                _post(secret, body, notifications.timeout_seconds)
        except Exception as error:
            # the message of an error may hold the address, and an address may be a secret: only its kind is told
            told = str(error) if isinstance(error, InkwellError) else type(error).__name__
            print(f"notify: {name} ({address}) was not reached: {told}", file=sys.stderr)
            failed.append(name)
    return failed


def _secret(channel: str, address: str) -> str:
    """What env:NAME or block:NAME stands for."""
    import os

    kind, _, name = address.partition(":")
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


def _mail(address: str, notifications: Notifications, subject: str, text: str) -> None:
    """One message to all; logs in only where the connection is encrypted or is this machine's own."""
    import smtplib
    import ssl
    from email.message import EmailMessage
    from urllib.parse import unquote, urlsplit

    if not notifications.mail_to:
        raise InkwellError("notifications.mail_to names nobody.")
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InkwellError("it holds no smtp://user:password@host:port.") from error
    if parts.scheme not in ("smtp", "smtps") or not host:
        raise InkwellError("it holds no smtp://user:password@host:port.")
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = (
        subject,
        notifications.mail_from,
        ", ".join(notifications.mail_to),
    )
    message.set_content(text)
    context, seconds = ssl.create_default_context(), notifications.timeout_seconds
    server = (
        smtplib.SMTP_SSL(host, port or 465, timeout=seconds, context=context)
        if parts.scheme == "smtps"
        else smtplib.SMTP(host, port or 587, timeout=seconds)
    )
    with server:
        server.ehlo()
        encrypted = parts.scheme == "smtps"
        if not encrypted and server.has_extn("starttls"):
            server.starttls(context=context)
            server.ehlo()
            encrypted = True
        if parts.username:
            if not encrypted and host not in ("127.0.0.1", "::1", "localhost"):
                raise InkwellError("the mail server offers no encryption, and a password is not sent in the open.")
            server.login(unquote(parts.username), unquote(parts.password or ""))
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
        channels = [name for name in ("slack", "webhook", "smtp") if getattr(notifications, name)]
        if not channels:
            raise InkwellError(
                "params.yaml: notifications names neither slack nor webhook nor smtp: nobody would hear."
            )
        failed = send(notifications, "Inkwell: a test", "This is what a notification looks like.", "test")
    except InkwellError as error:
        print(f"notify: {error}", file=sys.stderr)
        return 2
    print(f"sent: {', '.join(name for name in channels if name not in failed) or 'nothing'}")
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

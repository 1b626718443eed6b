"""What Prefect's server does by itself for runs that cannot speak: those that failed, died in silence or never began.

No worker is needed for it, since a missing worker is one of the things to be told. Addresses and logins go into Prefect
blocks, which the server keeps encrypted; an automation knows the block's id only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode
from uuid import UUID

from components.errors import InkwellError
from flows.notify import SUBJECTS, address_of, body, configured, mail_server

if TYPE_CHECKING:
    from prefect.blocks.core import Block
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.actions import ActionTypes
    from prefect.events.schemas.automations import AutomationCore

    from components.configuration import Notifications

FLOWS = ("inkwell-pipeline", "inkwell-retrain", "inkwell-promote")
_EVENT = "failed"  # as in notifications.events; late and crashed runs are failures of the same kind to whoever listens
_SILENCE = timedelta(seconds=120)  # four heartbeats
_RUN = "{{ flow.name }}, run {{ flow_run.name }}: "
_ENDED = _RUN + "{{ flow_run.state.name }}. {{ flow_run.state.message }}"
_LATE = _RUN + "it has not begun in time; is a worker there?"


def block_name(channel: str) -> str:
    """Name of the block that holds a channel's address on the server."""
    return f"inkwell-{channel}"


def keep_addresses(client: SyncPrefectClient, notifications: Notifications) -> tuple[dict[str, UUID], list[str]]:
    """(id of the block by channel, what could not be kept, in sentences): each configured channel's address on the server.

    An address that this machine does not know (a variable that only the worker has) leaves an earlier block as it is.
    """
    blocks, said = {}, []
    for channel, where in configured(notifications).items():
        try:
            block = _block(channel, address_of(channel, where), notifications)
            blocks[channel] = UUID(str(block.save(block_name(channel), overwrite=True)))
        except Exception as error:
            # the message of an error may hold the address, and an address may be a secret: only its kind is told
            told = str(error) if isinstance(error, InkwellError) else f"{type(error).__name__}."
            known = _known(client, channel)
            if known:
                blocks[channel] = known
            kept = "the address of the last deploy stays" if known else "the server cannot tell by it"
            said.append(f"notifications.{channel} ({where}): {kept}: {told}")
    return blocks, said


def _block(channel: str, address: str, notifications: Notifications) -> Block:
    if channel == "smtp":
        from prefect.blocks.notifications import SlackWebhook

        # Prefect's server has no block for SMTP; this one hands any address that is not Slack's to Apprise, which knows mail.
        return SlackWebhook(url=_as_apprise(address, notifications))  # type: ignore[arg-type]
    if not address.startswith(("http://", "https://")):
        raise InkwellError("it holds no http:// or https:// address.")
    from prefect.blocks.webhook import Webhook

    return Webhook(method="POST", url=address, headers={"Content-Type": "application/json"})  # type: ignore[arg-type]


def _as_apprise(address: str, notifications: Notifications) -> str:
    """smtp[s]://... as Apprise writes it; InkwellError where Apprise would refuse it later, when nobody looks."""
    from apprise import Apprise

    if not notifications.mail_to:
        raise InkwellError("notifications.mail_to names nobody.")
    there = mail_server(address)
    in_the_open = there.here or not there.user  # no password over an open line
    mode = "ssl" if there.encrypted else "insecure" if in_the_open else "starttls"
    login = f"{quote(there.user, safe='')}:{quote(there.password, safe='')}@" if there.user else ""
    host = f"[{there.host}]" if ":" in there.host else there.host
    asked = {
        "mode": mode,
        "smtp": there.host,
        "from": notifications.mail_from,
        "to": ",".join(notifications.mail_to),
        "format": "text",
    }
    scheme = "mailto" if mode == "insecure" else "mailtos"
    found = f"{scheme}://{login}{host}:{there.port}/?{urlencode(asked, quote_via=quote)}"
    if not Apprise().add(found):
        raise InkwellError("Prefect cannot use this mail server, or an address in mail_to or mail_from is none.")
    return found


def _known(client: SyncPrefectClient, channel: str) -> UUID | None:
    from prefect.exceptions import ObjectNotFound

    kind = "slack-webhook" if channel == "smtp" else "webhook"
    try:
        found: UUID = client.read_block_document_by_name(block_name(channel), kind, include_secrets=False).id
        return found
    except ObjectNotFound:
        return None


def actions(blocks: Mapping[str, UUID], text: str) -> list[ActionTypes]:
    """What tells `text`, a template, by every channel; doing nothing where there is none."""
    from prefect.events.actions import CallWebhook, DoNothing, SendNotification

    subject = SUBJECTS[_EVENT]
    found: list[ActionTypes] = []
    for channel, block in blocks.items():
        if channel == "smtp":
            found.append(
                SendNotification(type="send-notification", block_document_id=block, subject=subject, body=text)
            )
        else:
            payload = _json_template(body(channel, _EVENT, subject, text))
            found.append(CallWebhook(type="call-webhook", block_document_id=block, payload=payload))
    return found or [DoNothing(type="do-nothing")]


def _json_template(values: Mapping[str, str]) -> str:
    """A template of a JSON object: what a run says may hold quotes and line ends, so that each value is escaped when it is known."""
    import json

    sets, pairs = [], []
    for name, template in values.items():
        sets.append(f"{{% set {name}_ %}}{template}{{% endset %}}")
        pairs.append(f"{json.dumps(name)}: {{{{ {name}_ | string | tojson }}}}")
    return "".join(sets) + "{" + ", ".join(pairs) + "}"


def deployed(client: SyncPrefectClient) -> list[UUID]:
    """The deployments of our flows on the server, whichever pools they are for."""
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    found = client.read_deployments(flow_filter=FlowFilter(name=FlowFilterName(any_=list(FLOWS))))
    return [deployment.id for deployment in found]


def automations(deployments: Sequence[UUID], blocks: Mapping[str, UUID]) -> list[AutomationCore]:
    """What happens for runs that die silently, and for those of `deployments` that run late, fail or crash.

    A run from a command line tells whoever sits there; only runs of deployments are told by the server.
    """
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    runs = {"prefect.resource.id": "prefect.flow-run.*"}
    ended = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    heartbeat = "prefect.flow-run.heartbeat"

    def told(name: str, description: str, states: Sequence[str], text: str) -> AutomationCore:
        return AutomationCore(
            name=name,
            description=description,
            tags=["inkwell"],
            trigger=EventTrigger(
                type="event",
                expect={f"prefect.flow-run.{state}" for state in states},
                match=runs,
                match_related={
                    "prefect.resource.role": "deployment",
                    "prefect.resource.id": [f"prefect.deployment.{deployment}" for deployment in deployments],
                },
                posture=Posture.Reactive,
                threshold=1,
                within=timedelta(0),
            ),
            actions=actions(blocks, text),
        )

    silent = AutomationCore(
        name="inkwell-silent",
        description="A run whose heartbeat stopped has crashed: its machine or process is gone",
        tags=["inkwell"],
        trigger=EventTrigger(
            type="event",
            after={heartbeat},
            expect={heartbeat, *ended},
            match=runs,
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": list(FLOWS)},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=_SILENCE,
        ),
        actions=[
            ChangeFlowRunState(
                type="change-flow-run-state",
                state=StateType.CRASHED,
                message="no heartbeat: its process or machine is gone",
            )
        ],
    )
    return [
        silent,
        told("inkwell-failing", "A run failed or crashed", ("Failed", "Crashed"), _ENDED),
        told("inkwell-late", "A run has not begun in time: is a worker there?", ("Late",), _LATE),
    ]


def keep_automations(client: SyncPrefectClient, wanted: Sequence[AutomationCore]) -> list[str]:
    """Make or refresh them; what was done, in sentences. One that was switched off by hand stays off."""
    said = []
    for automation in wanted:
        known = client.read_automations_by_name(automation.name)
        if not known:
            client.create_automation(automation)
            said.append(f"automation {automation.name}: made")
            continue
        automation.enabled = known[0].enabled
        client.update_automation(known[0].id, automation)
        for surplus in known[1:]:
            client.delete_automation(surplus.id)
        said.append(f"automation {automation.name}: as it should be")
    return said

"""Makes or takes a project of Label Studio and connects it to Tandem, so that running it again changes nothing.

Knows what Label Studio must be told and in which order; knows nothing of the ledger or the learner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backend.data_manager import TABS
from backend.label_config import left_to_people, parse_label_config
from backend.labelstudio import Backend, LabelStudio, LabelStudioError, ProjectState, View, Webhook
from backend.settings import Settings

TITLE = "Tandem"
"""Title of the backend in Label Studio; also the version that a project shows until the first one is published."""

USER = "label-studio"
"""User name of the basic authentication with which Label Studio asks for predictions."""

SAMPLING = "Uncertainty sampling"
"""The order of Label Studio's next task: lowest score of the shown version first."""

_PRIVATE_ADDRESS = (
    "Label Studio refuses to call {url}, a private address ({detail}). Start Label Studio with "
    "USE_DEFAULT_BANNED_SUBNETS=false and USER_ADDITIONAL_BANNED_SUBNETS=169.254.0.0/16, which keeps cloud metadata "
    "out of reach; or, less safely, with ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false, always both: with "
    "the first alone predictions work but no annotation is ever heard of. Or set TANDEM_PUBLIC_URL to a public address."
)


@dataclass(frozen=True, slots=True)
class Connected:
    """A project connected to Tandem.

    Attributes
    ----------
    project
        The project as it is now.
    made
        Whether it was made just now.
    notes
        Sentences about what the user may want to change.
    """

    project: ProjectState
    backend: Backend
    webhook: Webhook
    views: tuple[View, ...]
    made: bool
    notes: tuple[str, ...]


def connect(
    settings: Settings,
    label_studio: LabelStudio,
    *,
    project: int | None = None,
    title: str | None = None,
    label_config: str | None = None,
) -> Connected:
    """Connect a project of Label Studio to Tandem; Tandem must be running, since Label Studio asks it at once.

    Parameters
    ----------
    settings
        Where Tandem is reached, and the secret it shares with Label Studio.
    label_studio
        The client.
    project
        Id of the project to connect.
    title
        Without an id: the project of this title; made if there is none.
    label_config
        Labeling configuration of a project that is made.

    Raises
    ------
    UnusableConfig
        When the project does not classify images.
    LabelStudioError
        When Label Studio refuses; the message says what to change.
    """
    url = public_url(settings)
    state, made = _project(label_studio, project, title, label_config)
    number = state.facts.id
    webhook, is_new = _webhook(settings, label_studio, number, url)
    try:
        backend, others = _backend(settings, label_studio, number, url)
    except LabelStudioError as error:
        if is_new:
            label_studio.delete_webhook(webhook)
        raise explained(error, url) from error
    state = _settle(label_studio, number)
    earlier = [
        f"Label Studio asks the backend {other.title!r} ({other.url}) for predictions, since it was connected earlier: "
        "remove it in the project's settings to have Tandem's."
        for other in others
        if other.id < backend.id
    ]
    notes = (*earlier[:1], *left_to_people(state.facts.label_config))
    return Connected(state, backend, webhook, _views(label_studio, number), made, notes)


def public_url(settings: Settings) -> str:
    """Return Tandem's address as Label Studio reaches it.

    Raises
    ------
    LabelStudioError
        When it listens everywhere and nobody said at which address.
    """
    url = (settings.public_url or settings.web_url).rstrip("/")
    if not settings.public_url and settings.web_host in {"0.0.0.0", "::"}:  # noqa: S104 - refused, not bound
        raise LabelStudioError(
            0, f"{url} is no address to call: set TANDEM_PUBLIC_URL to the one at which Label Studio reaches Tandem."
        )
    return url


def _project(
    label_studio: LabelStudio, number: int | None, title: str | None, label_config: str | None
) -> tuple[ProjectState, bool]:
    """Return the project to connect and whether it was made; its configuration is one that can be learned."""
    if number is not None:
        try:
            state = label_studio.project(number)
        except LabelStudioError as error:
            if error.status != 404:
                raise
            known = ", ".join(f"{item.facts.id} ({item.facts.title})" for item in label_studio.projects())
            raise LabelStudioError(
                404, f"There is no project {number} for this key; there is {known or 'none'}."
            ) from error
        parse_label_config(state.facts.label_config)
        return state, False
    if title is None:
        raise LabelStudioError(0, "Say which project to connect: its number, or a title.")
    for state in label_studio.projects():
        if state.facts.title == title:
            parse_label_config(state.facts.label_config)
            return state, False
    if label_config is None:
        raise LabelStudioError(0, f"There is no project {title!r} yet: give a labeling configuration to make it with.")
    parse_label_config(label_config)
    return label_studio.create_project(title, label_config), True


def _webhook(settings: Settings, label_studio: LabelStudio, number: int, url: str) -> tuple[Webhook, bool]:
    """Leave exactly one webhook to Tandem, with the secret; return it and whether it is new.

    It is made before the backend, since Label Studio makes one of its own, without the secret, where there is none.
    """
    address = f"{url}/webhook"
    headers = webhook_headers(settings)
    ours, moved = sort_webhooks(label_studio.webhooks(number), url, headers)
    for leftover in ours[1:] + moved:
        label_studio.delete_webhook(leftover)
    if not ours:
        try:
            return label_studio.create_webhook(number, address, headers), True
        except LabelStudioError as error:
            raise explained(error, url) from error
    kept = ours[0]
    if tells_all(kept, headers):
        return kept, False
    return label_studio.update_webhook(kept, headers), False


def webhook_headers(settings: Settings) -> dict[str, str]:
    """Return the headers with which a webhook shows the secret."""
    secret = settings.secret.get_secret_value()
    return {"Authorization": f"Bearer {secret}"} if secret else {}


def sort_webhooks(
    webhooks: Sequence[Webhook], url: str, headers: Mapping[str, str]
) -> tuple[list[Webhook], list[Webhook]]:
    """Return the webhooks to Tandem at `url`, and those to an earlier address of it: they show the secret too."""
    ours = [webhook for webhook in webhooks if webhook.url == f"{url}/webhook"]
    return ours, [webhook for webhook in webhooks if headers and webhook not in ours and webhook.headers == headers]


def tells_all(webhook: Webhook, headers: Mapping[str, str]) -> bool:
    """Tell whether a webhook is sent everything, with the secret."""
    return webhook.headers == headers and webhook.is_active and webhook.send_payload and webhook.send_for_all_actions


def _backend(settings: Settings, label_studio: LabelStudio, number: int, url: str) -> tuple[Backend, list[Backend]]:
    """Leave exactly one backend that is Tandem; return it and the others."""
    secret = settings.secret.get_secret_value()
    fields: dict[str, object] = {"is_interactive": False, "auth_method": "NONE"}
    if secret:
        fields |= {"auth_method": "BASIC_AUTH", "basic_auth_user": USER, "basic_auth_pass": secret}
    existing = label_studio.backends(number)
    ours = [backend for backend in existing if backend.url.rstrip("/") == url]
    if not ours:
        # One of our title that no longer answers is an earlier address of ours.
        ours = [backend for backend in existing if backend.title == TITLE and not backend.connected]
    if not ours:
        return label_studio.add_backend(number, url, TITLE, **fields), existing
    kept = ours[0]
    # Always: Label Studio does not tell the password it has.
    updated = label_studio.update_backend(kept, url=url, title=TITLE, **fields)
    for leftover in ours[1:]:
        label_studio.delete_backend(leftover)
    if kept.url.rstrip("/") != url:
        for webhook in label_studio.webhooks(number):
            if webhook.url == f"{kept.url.rstrip('/')}/webhook":
                label_studio.delete_webhook(webhook)
    return updated, [backend for backend in existing if backend not in ours]


def _settle(label_studio: LabelStudio, number: int) -> ProjectState:
    """Set what annotators are asked and shown, where it is not so yet."""
    state = label_studio.project(number)
    fields: dict[str, object] = {}
    if state.sampling != SAMPLING:
        fields["sampling"] = SAMPLING
    if not state.show_collab_predictions:
        fields["show_collab_predictions"] = True
    if not state.model_version:
        fields["model_version"] = TITLE
    return label_studio.update_project(number, **fields) if fields else state


def _views(label_studio: LabelStudio, number: int) -> tuple[View, ...]:
    """Leave a tab of each title there, *Ask next* and those made now before others, and return them."""
    standing = label_studio.views(number)
    there = {view.title: view for view in reversed(standing)}
    missing = [tab for tab in TABS if tab.title not in there]
    made = [label_studio.create_view(number, tab.title, **tab.data()) for tab in missing]
    if not standing:
        # Label Studio makes its own tab only in a project that has none, and ours hide what is labelled.
        standing = [label_studio.create_view(number, "Default", type="list", target="tasks")]
    if made:
        first = TABS[0].title
        place = next((place for place, view in enumerate(standing, start=1) if view.title == first), 0)
        label_studio.order_views(number, [*standing[:place], *made, *standing[place:]])
    there |= {view.title: view for view in made}
    return tuple(there[tab.title] for tab in TABS)


def explained(error: LabelStudioError, url: str) -> LabelStudioError:
    """Return the error with what to change, where Label Studio's own words do not say it."""
    if "reserved network address" in error.message:
        detail = error.message.partition("(")[2].partition(")")[0]
        return LabelStudioError(error.status, _PRIVATE_ADDRESS.format(url=url, detail=detail))
    if "Enter a valid URL" in error.message:
        return LabelStudioError(
            error.status,
            f"Label Studio takes {url} for no address, since a host's name needs a dot: give Tandem another name or its"
            " number in TANDEM_PUBLIC_URL.",
        )
    if "authentication parameters" in error.message or "401 Client Error" in error.message:
        return LabelStudioError(
            error.status,
            f"Tandem at {url} refused the secret that Label Studio sent: start it with the same TANDEM_SECRET as this.",
        )
    if "health check failed" in error.message:
        return LabelStudioError(
            error.status,
            f"Label Studio can't reach Tandem at {url}: start Tandem, or set TANDEM_PUBLIC_URL to its address as Label "
            "Studio reaches it (from a container, http://host.docker.internal and the port).",
        )
    return error

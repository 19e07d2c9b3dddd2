"""Checks of ``meldwatch doctor``: settings, database, encryption keys, broker, handlers, Meld, webhook URLs.

Each failed check says what to do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from sqlmodel import col, select

from meldwatch.process.factories import make_handler_pool
from meldwatch.process.generated_secrets import load_stored_encryption_key
from migrations import revisions
from runtime import broker as brokers
from runtime.database import Database
from runtime.errors import MeldwatchError, OutOfReachError
from runtime.net.meld_client import MeldClient
from runtime.security.encryption import Encryption
from runtime.settings import Settings
from schemas import tables
from schemas.meld.read_outcome import ListPage, Refused, Throttled, Unavailable, Unreadable

WEBHOOK_PATH = "/webhooks/meld"


@dataclass(frozen=True, slots=True)
class DoctorFinding:
    """The result of a check: its name, a text that says what to do if it failed, and how it failed."""

    check: str
    text: str
    is_ok: bool = True
    is_out_of_reach: bool = False


def run_checks(settings: Settings) -> list[DoctorFinding]:
    """Run all checks, also after one has failed. Meld gets one request, for one connection of its list."""
    findings = [_check_settings(settings)]
    checks: tuple[tuple[str, Callable[[Settings], DoctorFinding]], ...] = (
        ("database", _check_database),
        ("encryption", _check_encryption),
        ("broker", _check_broker),
        *((("handlers", _check_handlers),) if settings.handlers else ()),
        ("meld", _check_meld),
    )
    for name, check in checks:
        try:
            findings.append(check(settings))
        except OutOfReachError as error:
            findings.append(DoctorFinding(name, str(error), is_ok=False, is_out_of_reach=True))
        except MeldwatchError as error:
            findings.append(DoctorFinding(name, str(error), is_ok=False))
    findings += [_check_webhook_url(url) for url in settings.webhook_urls]
    return findings


def _check_settings(settings: Settings) -> DoctorFinding:
    needed = ("webhook_urls", "webhook_secrets", "authorization")
    names = {"authorization": "MELDWATCH_MELD_API_KEY"}
    missing = [names.get(name, f"MELDWATCH_{name.upper()}") for name in needed if not getattr(settings, name)]
    if missing:
        return DoctorFinding("settings", f"set {', '.join(missing)}; see docs/settings.md", is_ok=False)
    if settings.is_memory_broker and not settings.is_sqlite:
        return DoctorFinding(
            "settings", "BROKER_URL is memory://: only `meldwatch up` can run, not web, worker and clock"
        )
    if not (settings.read_tokens or settings.admin_tokens):
        return DoctorFinding(
            "settings", "no READ_TOKENS or ADMIN_TOKENS: only the token that `up` generates opens the API"
        )
    return DoctorFinding("settings", "all required settings are set")


def _check_database(settings: Settings) -> DoctorFinding:
    if settings.is_sqlite and not settings.sqlite_path.exists():
        return DoctorFinding("database", f"{settings.sqlite_path} does not exist yet; `meldwatch up` creates it")
    database = Database(settings.database_url.get_secret_value(), pool_size=1)
    try:
        current, is_current = revisions.get_current_revision(database.engine), revisions.is_current(database.engine)
    finally:
        database.close()
    if not is_current:
        needed = f"this version needs {revisions.get_head_revision()}: run `meldwatch migrate`"
        return DoctorFinding("database", f"its tables have revision {current or 'none'}, {needed}", is_ok=False)
    return DoctorFinding("database", f"answers, and its tables have revision {current}")


def _check_encryption(settings: Settings) -> DoctorFinding:
    keys = load_stored_encryption_key(settings).encryption_keys
    is_new = settings.is_sqlite and not settings.sqlite_path.exists()
    if not keys and is_new:
        return DoctorFinding("encryption", "there is no key yet; `meldwatch up` generates one")
    if not keys:
        without = "webhook bodies are stored in clear, and no subscription can be created"
        return DoctorFinding("encryption", f"set ENCRYPTION_KEYS: without a key {without}", is_ok=False)
    if is_new:
        return DoctorFinding("encryption", "there is a key")
    database = Database(settings.database_url.get_secret_value(), pool_size=1)
    try:
        if revisions.is_current(database.engine):
            _decrypt_samples(database, Encryption(keys))
    finally:
        database.close()
    return DoctorFinding("encryption", "the keys decrypt the newest webhook and the secrets of subscriptions")


def _decrypt_samples(database: Database, encryption: Encryption) -> None:
    """Open all secrets, which are few, and one body; raise ``EncryptionError`` where no key opens one of them."""
    webhook = tables.WebhookRow
    newest = select(webhook.body, webhook.encrypted_with).where(col(webhook.emptied_at).is_(None))
    with database.read() as session:
        # A handler in Python has no secret.
        for secret in session.exec(select(tables.SubscriptionRow.secret).where(tables.SubscriptionRow.secret != "")):
            encryption.decrypt(secret)
        for body, encrypted_with in session.exec(newest.order_by(col(webhook.id).desc()).limit(1)):
            encryption.decrypt_bytes(body, encrypted_with)


def _check_broker(settings: Settings) -> DoctorFinding:
    broker = brokers.connect(settings.broker_url.get_secret_value())
    try:
        brokers.ping(broker)
    finally:
        broker.close()
    return DoctorFinding("broker", "inside the process" if settings.is_memory_broker else "answers")


def _check_handlers(settings: Settings) -> DoctorFinding:
    pool = make_handler_pool(settings)
    try:
        names = [handler.name for handler in pool.start()]
    finally:
        pool.close()
    return DoctorFinding("handlers", f"can be called: {', '.join(names)}")


def _check_meld(settings: Settings) -> DoctorFinding:
    if settings.authorization is None:
        return DoctorFinding("meld", "not checked: there are no credentials", is_ok=False)
    meld = MeldClient.from_settings(settings, connections=1)
    try:
        outcome = meld.page(limit=1)
    finally:
        meld.close()
    match outcome:
        case ListPage():
            return DoctorFinding("meld", f"{settings.meld_api_url} accepts the credentials")
        case Refused(detail):
            return DoctorFinding(
                "meld",
                f"{detail}: the key does not fit {settings.meld_api_url} (keys are per environment), or the header"
                " has another form (MELDWATCH_MELD_AUTHORIZATION sets it exactly)",
                is_ok=False,
            )
        case Throttled():
            return DoctorFinding("meld", "accepts the credentials, but limits the rate now (429)")
        case Unavailable(detail):
            raise OutOfReachError(f"{settings.meld_api_url}: {detail}")
        case Unreadable(detail):
            return DoctorFinding("meld", f"{detail}: is {settings.meld_api_url} Meld's API?", is_ok=False)


def _check_webhook_url(url: str) -> DoctorFinding:
    parts = urlsplit(url)
    problem = None
    if parts.fragment or parts.username is not None:
        problem = "has a fragment or a user in it; no webhook is sent to such a URL"
    elif not parts.path.endswith(WEBHOOK_PATH):
        problem = f"does not end with {WEBHOOK_PATH}; unless a proxy rewrites the path, webhooks will not arrive"
    elif _is_this_machine(parts.hostname or ""):
        problem = "is this machine's own address; Meld itself cannot reach it (a simulated Meld can)"
        return DoctorFinding("webhook URL", f"{url} {problem}")
    elif parts.scheme != "https":
        problem = "is not https; Meld sends to https only"
    if problem is not None:
        return DoctorFinding("webhook URL", f"{url} {problem}", is_ok=False)
    return DoctorFinding("webhook URL", f"{url} must be exactly the URL in the Meld profile: Meld signs it")


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")

"""Rotation of a subscription's signing secret: the new secret is encrypted, the previous one signs for a day longer."""

from datetime import datetime, timedelta

from sqlmodel import Session

from runtime.security.encryption import Encryption
from schemas.tables import SubscriptionRow
from service.subscriptions.lookup import require_push

SECRET_OVERLAP = timedelta(hours=24)
"""How long the previous secret signs beside the new one."""

MAX_PREVIOUS_SECRETS = 5


def rotate_secret(
    session: Session, row: SubscriptionRow, encrypted_secret: str, encryption: Encryption, now: datetime
) -> None:
    """Give a subscription a new secret.

    Args:
        session: An open transaction that holds the lock of the row.
        row: The subscription.
        encrypted_secret: The new secret, encrypted.
        encryption: The keys; finds previous secrets that can still be decrypted.
        now: The present time.

    Raises:
        ConflictError: If the subscription is a Python handler, which has no secret.
    """
    require_push(row, "It has no secret: nothing is signed for it.")
    previous = {"sealed": row.secret, "until": (now + SECRET_OVERLAP).isoformat()}
    valid = [old for old in row.previous_secrets if datetime.fromisoformat(old["until"]) > now]
    # A secret whose encryption key is lost cannot sign, and would make every push fail until it expires.
    usable = [old for old in (previous, *valid) if encryption.can_decrypt(old["sealed"])]
    row.previous_secrets = usable[:MAX_PREVIOUS_SECRETS]
    row.secret = encrypted_secret
    session.flush()

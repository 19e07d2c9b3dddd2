"""Vault: secrets that have to be stored, encrypted with the operator's keys. Fernet: AES and HMAC, by version."""

import hashlib
from collections.abc import Iterable

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import SecretStr

from runtime.errors import VaultError


class Vault:
    """Seals with the newest key, and opens what any of the keys has sealed. Without a key it does neither.

    Args:
        keys: Fernet keys, newest first.

    Attributes:
        key_name: What the key that seals is known by, on the rows; None without a key. It tells nothing of the key.
    """

    def __init__(self, keys: Iterable[SecretStr]) -> None:
        texts = [key.get_secret_value() for key in keys]
        self._fernet = MultiFernet([Fernet(text) for text in texts]) if texts else None
        self.key_name = _name_of(texts[0]) if texts else None

    def seal(self, text: str) -> str:
        """Return a text encrypted.

        Raises:
            VaultError: Where there is no key.
        """
        return self._keys().encrypt(text.encode()).decode()

    def open(self, sealed: str) -> str:
        """Return what was sealed.

        Raises:
            VaultError: Where there is no key, or none that fits.
        """
        return self._open(sealed.encode()).decode()

    def seal_bytes(self, content: bytes) -> bytes:
        """Return bytes encrypted; as they are where there is no key: ``key_name`` tells which.

        For what is stored in any case, and better encrypted: a webhook's body.
        """
        return content if self._fernet is None else self._fernet.encrypt(content)

    def open_bytes(self, stored: bytes, sealed_with: str | None) -> bytes:
        """Return what ``seal_bytes`` was given.

        Args:
            stored: What it returned.
            sealed_with: The ``key_name`` that there was then.

        Raises:
            VaultError: Where there is no key that fits.
        """
        if sealed_with is None:
            return stored
        return self._open(stored)

    def _open(self, sealed: bytes) -> bytes:
        try:
            return self._keys().decrypt(sealed)
        except InvalidToken:
            raise VaultError(
                "What is stored cannot be decrypted. MELDWATCH_ENCRYPTION_KEYS lacks the key that it was stored with:"
                " add it at the end of the list."
            ) from None

    def _keys(self) -> MultiFernet:
        if self._fernet is None:
            raise VaultError(
                "Secrets are stored encrypted, and MELDWATCH_ENCRYPTION_KEYS is not set. Make a key"
                " with `openssl rand -base64 32 | tr '+/' '-_'`, and set it for every process."
            )
        return self._fernet


def _name_of(key: str) -> str:
    return hashlib.sha256(b"meldwatch key " + key.encode()).hexdigest()[:16]

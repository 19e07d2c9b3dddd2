"""Vault: secrets that have to be stored, encrypted with the operator's keys. Fernet: AES and HMAC, by version."""

import hashlib
from collections.abc import Iterable

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import SecretStr

from runtime.errors import EncryptionError


class Encryption:
    """Seals with the newest key, and opens what any of the keys has sealed. Without a key it does neither.

    Args:
        keys: Fernet keys, newest first.

    Attributes:
        key_names: What the keys are known by, on the rows and in messages, newest first. A name tells nothing of a key.
        key_name: The name of the key that seals; None without a key.
    """

    def __init__(self, keys: Iterable[SecretStr]) -> None:
        texts = [key.get_secret_value() for key in keys]
        self._fernet = MultiFernet([Fernet(text) for text in texts]) if texts else None
        self.key_names = tuple(map(_name_of, texts))
        self.key_name = self.key_names[0] if texts else None

    def seal(self, text: str) -> str:
        """Return a text encrypted.

        Raises:
            VaultError: Where there is no key.
        """
        self.require()
        return self.seal_bytes(text.encode()).decode()

    def open(self, sealed: str) -> str:
        """Return what was sealed.

        Raises:
            VaultError: Where there is no key, or none that fits.
        """
        return self._open(sealed.encode(), "").decode()

    def opens(self, sealed: str) -> bool:
        """Return whether there is a key that fits."""
        try:
            self.open(sealed)
        except EncryptionError:
            return False
        return True

    def seal_bytes(self, content: bytes) -> bytes:
        """Return bytes encrypted; as they are where there is no key: ``key_name`` tells which.

        For what is stored in any case, and better encrypted: a webhook's body.
        """
        return content if self._fernet is None else self._fernet.encrypt(content)

    def open_bytes(self, stored: bytes, encrypted_with: str | None) -> bytes:
        """Return what ``seal_bytes`` was given.

        Args:
            stored: What it returned.
            encrypted_with: The ``key_name`` that there was then.

        Raises:
            VaultError: Where there is no key, or none that fits.
        """
        if encrypted_with is None:
            return stored
        return self._open(stored, f" (the key {encrypted_with})")

    def require(self) -> str:
        """Return the name of the key that seals.

        Raises:
            VaultError: Where there is none.
        """
        if self.key_name is None:
            raise EncryptionError(
                "Secrets are stored encrypted, and MELDWATCH_ENCRYPTION_KEYS is not set. Make a key"
                " with `openssl rand -base64 32 | tr '+/' '-_'`, and set it for every process."
            )
        return self.key_name

    def _open(self, sealed: bytes, key: str) -> bytes:
        if self._fernet is None:
            raise EncryptionError(
                "What is stored is encrypted, and MELDWATCH_ENCRYPTION_KEYS is not set. Set what it was stored"
                f" with{key}."
            )
        try:
            return self._fernet.decrypt(sealed)
        except InvalidToken:
            raise EncryptionError(
                "What is stored cannot be decrypted. MELDWATCH_ENCRYPTION_KEYS lacks the key that it was stored"
                f" with{key}: add it at the end of the list."
            ) from None


def _name_of(key: str) -> str:
    return hashlib.sha256(b"meldwatch key " + key.encode()).hexdigest()[:16]

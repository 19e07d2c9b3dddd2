"""Encryption at rest of stored secrets and webhook bodies: Fernet (AES and HMAC) with key rotation."""

import hashlib
from collections.abc import Iterable

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import SecretStr

from runtime.errors import EncryptionError


class Encryption:
    """Encrypts with the newest key, and decrypts with any of the keys.

    Args:
        keys: Fernet keys, newest first. Without a key, secrets can be neither encrypted nor decrypted.

    Attributes:
        key_names: The names of the keys in rows and messages, newest first. A name reveals nothing about its key.
        key_name: The name of the key that encrypts; None without a key.
    """

    def __init__(self, keys: Iterable[SecretStr]) -> None:
        texts = [key.get_secret_value() for key in keys]
        self._fernet = MultiFernet([Fernet(text) for text in texts]) if texts else None
        self.key_names = tuple(map(_key_name, texts))
        self.key_name = self.key_names[0] if texts else None

    def encrypt(self, text: str) -> str:
        """Encrypt a secret.

        Raises:
            EncryptionError: If there is no key.
        """
        self.require_key()
        return self.encrypt_bytes(text.encode()).decode()

    def decrypt(self, encrypted: str) -> str:
        """Decrypt a secret.

        Raises:
            EncryptionError: If there is no key, or none of the keys fits.
        """
        return self._decrypt(encrypted.encode(), "").decode()

    def can_decrypt(self, encrypted: str) -> bool:
        """Return whether one of the keys fits."""
        try:
            self.decrypt(encrypted)
        except EncryptionError:
            return False
        return True

    def encrypt_bytes(self, content: bytes) -> bytes:
        """Encrypt bytes if there is a key, else return them unchanged; store ``key_name`` beside the result.

        For content that has to be stored in any case, such as the body of a webhook.
        """
        return content if self._fernet is None else self._fernet.encrypt(content)

    def decrypt_bytes(self, stored: bytes, encrypted_with: str | None) -> bytes:
        """Return the content that ``encrypt_bytes`` was given.

        Args:
            stored: The result of ``encrypt_bytes``.
            encrypted_with: The ``key_name`` at that time; None if the content is not encrypted.

        Raises:
            EncryptionError: If there is no key, or none of the keys fits.
        """
        if encrypted_with is None:
            return stored
        return self._decrypt(stored, f" (the key {encrypted_with})")

    def require_key(self) -> str:
        """Return the name of the key that encrypts.

        Raises:
            EncryptionError: If there is no key.
        """
        if self.key_name is None:
            raise EncryptionError(
                "Secrets are stored encrypted, and MELDWATCH_ENCRYPTION_KEYS is not set. Make a key"
                " with `openssl rand -base64 32 | tr '+/' '-_'`, and set it for every process."
            )
        return self.key_name

    def _decrypt(self, encrypted: bytes, key: str) -> bytes:
        if self._fernet is None:
            raise EncryptionError(
                "Stored content is encrypted, and MELDWATCH_ENCRYPTION_KEYS is not set. Set the key that it was"
                f" encrypted with{key}."
            )
        try:
            return self._fernet.decrypt(encrypted)
        except InvalidToken:
            raise EncryptionError(
                "Stored content cannot be decrypted. MELDWATCH_ENCRYPTION_KEYS lacks the key that it was encrypted"
                f" with{key}: add it at the end of the list."
            ) from None


def _key_name(key: str) -> str:
    return hashlib.sha256(b"meldwatch key " + key.encode()).hexdigest()[:16]

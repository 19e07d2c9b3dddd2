"""Vault: secrets that have to be stored, encrypted with the operator's keys. Fernet: AES and HMAC, by version."""

from collections.abc import Iterable

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import SecretStr

from runtime.errors import VaultError


class Vault:
    """Seals with the newest key, and opens what any of the keys has sealed. Without a key it does neither.

    Args:
        keys: Fernet keys, newest first.
    """

    def __init__(self, keys: Iterable[SecretStr]) -> None:
        fernets = [Fernet(key.get_secret_value()) for key in keys]
        self._fernet = MultiFernet(fernets) if fernets else None

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
        try:
            return self._keys().decrypt(sealed.encode()).decode()
        except InvalidToken:
            raise VaultError(
                "A stored secret cannot be decrypted. MELDWATCH_ENCRYPTION_KEYS lacks the key that it was stored with:"
                " add it at the end of the list."
            ) from None

    def _keys(self) -> MultiFernet:
        if self._fernet is None:
            raise VaultError(
                "Secrets of subscriptions are stored encrypted, and MELDWATCH_ENCRYPTION_KEYS is not set. Make a key"
                " with `openssl rand -base64 32 | tr '+/' '-_'`, and set it for every process."
            )
        return self._fernet

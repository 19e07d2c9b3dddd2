"""Encryption keys for tests: the present key with its ``Encryption``, and an older key."""

from cryptography.fernet import Fernet
from pydantic import SecretStr

from runtime.security.encryption import Encryption

OLD, KEY = (SecretStr(Fernet.generate_key().decode()) for _ in range(2))
ENCRYPTION = Encryption([KEY])

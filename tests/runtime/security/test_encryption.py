import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from runtime.errors import EncryptionError
from runtime.security.encryption import Encryption

OLD, NEW = (SecretStr(Fernet.generate_key().decode()) for _ in range(2))


@given(st.text())
def test_an_encrypted_text_is_decrypted(text: str) -> None:
    """Encryption and decryption return the same text, which the encrypted form does not contain."""
    encrypted = Encryption([NEW]).encrypt(text)

    assert Encryption([NEW]).decrypt(encrypted) == text
    assert len(text) < 4 or text not in encrypted


def test_keys_rotate() -> None:
    """Text of an older key is decrypted as long as that key is in the list; the newest key encrypts."""
    encrypted = Encryption([OLD]).encrypt("secret")

    assert Encryption([NEW, OLD]).decrypt(encrypted) == "secret"
    assert [Encryption(keys).can_decrypt(encrypted) for keys in ([NEW, OLD], [NEW], [])] == [True, False, False]
    assert Encryption([NEW]).decrypt(Encryption([NEW, OLD]).encrypt("secret")) == "secret"
    with pytest.raises(EncryptionError, match="lacks the key"):
        Encryption([NEW]).decrypt(encrypted)


def test_without_a_key_it_raises() -> None:
    """The message names the missing setting, how to make a key, and the key that would decrypt."""
    encrypted, name = Encryption([NEW]).encrypt_bytes(b"x"), Encryption([NEW]).key_name

    with pytest.raises(EncryptionError, match=r"MELDWATCH_ENCRYPTION_KEYS is not set.*openssl"):
        Encryption([]).encrypt("x")
    with pytest.raises(EncryptionError, match=r"KEYS is not set. Set the key that it was encrypted with\."):
        Encryption([]).decrypt(encrypted.decode())
    with pytest.raises(EncryptionError, match=rf"MELDWATCH_ENCRYPTION_KEYS is not set.*\(the key {name}\)"):
        Encryption([]).decrypt_bytes(encrypted, name)


@pytest.mark.parametrize("encrypted", ["", "nonsense", "gAAAAA==", "é"])
def test_text_that_is_not_encrypted_is_refused(encrypted: str) -> None:
    """Any text that no key encrypted raises an error."""
    with pytest.raises(EncryptionError):
        Encryption([NEW]).decrypt(encrypted)


@given(st.binary())
def test_bytes_are_encrypted_if_there_is_a_key(content: bytes) -> None:
    """Without a key they are stored unchanged, and can still be read when a key is set later."""
    bare, encryption = Encryption([]), Encryption([NEW])

    stored, encrypted = bare.encrypt_bytes(content), encryption.encrypt_bytes(content)

    assert (stored, bare.key_name) == (content, None)
    assert content == encryption.decrypt_bytes(stored, None)
    assert content == Encryption([OLD, NEW]).decrypt_bytes(encrypted, encryption.key_name)
    assert len(content) < 4 or content not in encrypted


def test_each_key_has_a_name() -> None:
    """The name is the same in every process, differs for every key, and reveals nothing about the key."""
    names = {Encryption([OLD]).key_name, Encryption([NEW, OLD]).key_name}

    assert len(names) == 2
    assert Encryption([OLD, NEW]).key_name in names
    assert all(name is not None and name not in OLD.get_secret_value() for name in names)
    assert Encryption([NEW, OLD]).key_names == (Encryption([NEW]).key_name, Encryption([OLD]).key_name)
    assert (Encryption([]).key_names, Encryption([]).key_name) == ((), None)
    with pytest.raises(EncryptionError, match=f"lacks the key.*{Encryption([NEW]).key_name}"):
        Encryption([OLD]).decrypt_bytes(Encryption([NEW]).encrypt_bytes(b"x"), Encryption([NEW]).key_name)

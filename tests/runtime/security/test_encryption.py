import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from runtime.errors import EncryptionError
from runtime.security.encryption import Encryption

OLD, NEW = (SecretStr(Fernet.generate_key().decode()) for _ in range(2))


@given(st.text())
def test_what_is_sealed_is_opened(text: str) -> None:
    """And is not to be seen in between."""
    sealed = Encryption([NEW]).seal(text)

    assert Encryption([NEW]).open(sealed) == text
    assert len(text) < 4 or text not in sealed


def test_keys_rotate() -> None:
    """What an older key sealed is opened as long as that key is in the list; the newest seals."""
    sealed = Encryption([OLD]).seal("secret")

    assert Encryption([NEW, OLD]).open(sealed) == "secret"
    assert [vault.opens(sealed) for vault in (Encryption([NEW, OLD]), Encryption([NEW]), Encryption([]))] == [
        True,
        False,
        False,
    ]
    assert Encryption([NEW]).open(Encryption([NEW, OLD]).seal("secret")) == "secret"
    with pytest.raises(EncryptionError, match="lacks the key"):
        Encryption([NEW]).open(sealed)


def test_without_a_key_it_stays_closed() -> None:
    """The message says which setting is missing; how to make a key to seal with, and which one would open."""
    sealed, name = Encryption([NEW]).seal_bytes(b"x"), Encryption([NEW]).key_name

    with pytest.raises(EncryptionError, match=r"MELDWATCH_ENCRYPTION_KEYS is not set.*openssl"):
        Encryption([]).seal("x")
    with pytest.raises(EncryptionError, match=r"MELDWATCH_ENCRYPTION_KEYS is not set. Set what it was stored with\."):
        Encryption([]).open(sealed.decode())
    with pytest.raises(EncryptionError, match=rf"MELDWATCH_ENCRYPTION_KEYS is not set.*\(the key {name}\)"):
        Encryption([]).open_bytes(sealed, name)


@pytest.mark.parametrize("sealed", ["", "nonsense", "gAAAAA==", "é"])
def test_what_was_never_sealed_is_not_opened(sealed: str) -> None:
    """Whatever a row holds."""
    with pytest.raises(EncryptionError):
        Encryption([NEW]).open(sealed)


@given(st.binary())
def test_bytes_are_sealed_where_there_is_a_key(content: bytes) -> None:
    """Without a key they stay as they are; a key that comes later still opens what was stored before."""
    bare, vault = Encryption([]), Encryption([NEW])

    stored, sealed = bare.seal_bytes(content), vault.seal_bytes(content)

    assert (stored, bare.key_name) == (content, None)
    assert content == vault.open_bytes(stored, None)
    assert content == Encryption([OLD, NEW]).open_bytes(sealed, vault.key_name)
    assert len(content) < 4 or content not in sealed


def test_a_key_is_known_by_a_name() -> None:
    """Of the key that seals; the same in every process, another for every key, and nothing of the key."""
    names = {Encryption([OLD]).key_name, Encryption([NEW, OLD]).key_name}

    assert len(names) == 2
    assert Encryption([OLD, NEW]).key_name in names
    assert all(name is not None and name not in OLD.get_secret_value() for name in names)
    assert Encryption([NEW, OLD]).key_names == (Encryption([NEW]).key_name, Encryption([OLD]).key_name)
    assert (Encryption([]).key_names, Encryption([]).key_name) == ((), None)
    with pytest.raises(EncryptionError, match=f"lacks the key.*{Encryption([NEW]).key_name}"):
        Encryption([OLD]).open_bytes(Encryption([NEW]).seal_bytes(b"x"), Encryption([NEW]).key_name)

import threading
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import UnsafeUrlError
from runtime.net.ssrf_guard import SsrfGuard, is_public_address

NOT_PUBLIC = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/128",
    "::1/128",
    "::ffff:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/32",
    "2001:20::/28",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
]
PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.215.14", "172.32.0.1", "192.0.3.1", "2606:4700:4700::1111", "2a00:1450::1"]


@st.composite
def of_networks(draw: st.DrawFn) -> str:
    """Draw an address of a network that is not public."""
    network = ip_network(draw(st.sampled_from(NOT_PUBLIC)))
    return str(network[draw(st.integers(0, network.num_addresses - 1))])


@given(of_networks())
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    """Any address of any special-purpose network is refused."""
    assert not SsrfGuard().is_allowed(address)
    assert not SsrfGuard(["8.8.8.0/24", "2606:4700::/32"]).is_allowed(address, is_plain=True)


@given(st.ip_addresses(v=4))
def test_an_embedded_public_address_is_refused(inner: IPv4Address) -> None:
    """Mapped, NAT64, 6to4 and Teredo addresses are refused, even if they embed a public address."""
    number = int(inner)
    wrapped = [
        IPv6Address((0xFFFF << 32) + number),
        IPv6Address((0x0064FF9B << 96) + number),
        IPv6Address((0x2002 << 112) + (number << 80) + 1),
        IPv6Address((0x20010000 << 96) + (number ^ 0xFFFFFFFF)),
    ]

    assert [is_public_address(address) for address in wrapped] == [False] * 4


@given(st.ip_addresses())
def test_only_global_addresses_are_public(address: IPv4Address | IPv6Address) -> None:
    """No address is public that Python classifies as anything else."""
    if is_public_address(address):
        assert address.is_global
        assert not any((address.is_private, address.is_multicast, address.is_reserved, address.is_link_local))


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_permitted(address: str) -> None:
    """Public addresses are permitted, with TLS only."""
    assert SsrfGuard().is_allowed(address)
    assert not SsrfGuard().is_allowed(address, is_plain=True)


@given(of_networks(), st.integers(0, 8))
def test_the_operator_may_allow_any_network(address: str, wider: int) -> None:
    """An allowed network is permitted with and without TLS; no other network is."""
    network = ip_network(address).supernet(wider)
    guard = SsrfGuard([str(network)])

    assert (guard.is_allowed(address), guard.is_allowed(address, is_plain=True)) == (True, True)
    assert not any(guard.is_allowed(other, is_plain=True) for other in PUBLIC)


@pytest.mark.parametrize(
    "text", ["", "localhost", "1.2.3", "0x7f000001", "127.1", "1.2.3.4.5", "fe80::1%eth0", "[::1]"]
)
def test_text_that_is_no_address_is_refused(text: str) -> None:
    """Only addresses are permitted; host names have to be resolved before."""
    assert not SsrfGuard().is_allowed(text)


def found(*addresses: str) -> SsrfGuard:
    return SsrfGuard(["10.0.0.0/8"], lookup=lambda _host, _port: addresses)


def test_every_address_is_checked() -> None:
    """One address that is not permitted is enough to refuse the host."""
    assert found("1.1.1.1", "2606:4700::1", "1.1.1.1").resolve("h", 443, 1) == ["1.1.1.1", "2606:4700::1"]
    with pytest.raises(UnsafeUrlError, match="not public"):
        found("1.1.1.1", "169.254.169.254").resolve("h", 443, 1)
    with pytest.raises(UnsafeUrlError, match="Without TLS"):
        found("10.0.0.1", "1.1.1.1").resolve("h", 80, 1, is_plain=True)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "0x7f000001", "2130706433", "127.1", "0", "::1", "::ffff:127.0.0.1"]
)
def test_all_names_of_this_machine_are_refused(host: str) -> None:
    """However the name is written: it is resolved by the operating system, as for a push."""
    with pytest.raises(UnsafeUrlError):
        SsrfGuard().resolve(host, 443, 5)


def test_a_name_without_an_address_is_refused() -> None:
    """A host that cannot be resolved is refused."""

    def fail(_host: str, _port: int) -> list[str]:
        raise OSError("no such name")

    for guard in (found(), SsrfGuard(lookup=fail)):
        with pytest.raises(UnsafeUrlError, match="cannot be resolved"):
            guard.resolve("h", 443, 1)


def test_a_lookup_has_a_timeout() -> None:
    """A resolver that does not answer delays the check for no longer than the timeout."""
    released = threading.Event()

    def hang(_host: str, _port: int) -> list[str]:
        released.wait(20)
        return ["1.1.1.1"]

    with pytest.raises(UnsafeUrlError, match="cannot be resolved"):
        SsrfGuard(lookup=hang).resolve("h", 443, 0.05)
    released.set()


@pytest.mark.parametrize("url", ["https://h/", "https://h:8443/path?q=1", "http://h"])
def test_permitted_urls(url: str) -> None:
    """Absolute URLs are permitted; those without TLS only to allowed networks."""
    found("10.1.1.1").check(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h",
        "//h/x",
        "ftp://h",
        "file:///etc/passwd",
        "https://",
        "https:///x",
        "https://h:0",
        "https://h:99999",
        "https://h:x",
        "https://[::1",
        "https://user:password@h",
        "https://user@h",
        "https://h/#part",
        "https://h/#",
        "https://h /",
        "https://h/\r\nX: y",
        "https://hé/",
        "https://h/\x00",
        "https://h/" + "x" * 2000,
    ],
)
def test_refused_urls(url: str) -> None:
    """Each is refused with a message for people that does not contain the URL."""
    with pytest.raises(UnsafeUrlError) as caught:
        found("10.1.1.1").check(url)

    assert "password" not in str(caught.value)


def test_public_hosts_need_tls() -> None:
    """Plain HTTP is permitted to allowed networks only."""
    found("1.1.1.1").check("https://h")
    with pytest.raises(UnsafeUrlError, match="Without TLS"):
        found("1.1.1.1").check("http://h")

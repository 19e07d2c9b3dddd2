"""Institutions (banks) of the simulated account, and the service providers behind them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Institution:
    """A bank, and the service provider through which Meld reaches it."""

    id: str
    name: str
    provider: str = "PLAID"


INSTITUTIONS = (
    Institution("Ntj3AwgdridJc2rtfeheku", "Chase"),
    Institution("Pm7XqWcTzHb4RkEaUvLs2y", "Wells Fargo"),
    Institution("Hd5KfNyGp8JtQxVwMrBe3c", "Crédit Agricole", "MX"),
    Institution("Tz9RbYaCm6WgLhSnEkXu4d", "Bank of America"),
    Institution("Vc2UeJqPw7FsDyKtAxGn5h", "Navy Federal Credit Union", "FINICITY"),
    Institution("Bx8MvHgZk3TrNpCdQyLw6f", "Raiffeisen Österreich", "AKOYA"),
)


def get_institution(institution_id: str) -> Institution:
    """Return the institution with this id; an unknown id gives a made-up institution."""
    return next(
        (known for known in INSTITUTIONS if known.id == institution_id), Institution(institution_id, institution_id)
    )

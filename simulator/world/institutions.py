"""The institutions of the simulated world."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Institution:
    """A bank, and the service provider through which Meld reaches it."""

    id: str
    name: str
    provider: str = "PLAID"


BANKS = (
    Institution("Ntj3AwgdridJc2rtfeheku", "Chase"),
    Institution("Pm7XqWcTzHb4RkEaUvLs2y", "Wells Fargo"),
    Institution("Hd5KfNyGp8JtQxVwMrBe3c", "Crédit Agricole", "MX"),
    Institution("Tz9RbYaCm6WgLhSnEkXu4d", "Bank of America"),
    Institution("Vc2UeJqPw7FsDyKtAxGn5h", "Navy Federal Credit Union", "FINICITY"),
    Institution("Bx8MvHgZk3TrNpCdQyLw6f", "Raiffeisen Österreich", "AKOYA"),
)


def bank(institution_id: str) -> Institution:
    """The institution of that id; one that is not in the book is made up."""
    return next((known for known in BANKS if known.id == institution_id), Institution(institution_id, institution_id))

"""Options that are derived from the query models of the API."""

from datetime import UTC, datetime

import click
import pytest
from click.testing import CliRunner

from meldwatch.cli.options import query_options
from runtime.errors import UsageError
from schemas.api_queries import EventQuery, PageQuery, WebhookQuery


def make_command(model: type[PageQuery], seen: list[PageQuery], *, exclude: tuple[str, ...] = ()) -> click.Command:
    @click.command()
    @query_options(model, exclude=exclude)
    def command(*, query: PageQuery) -> None:
        seen.append(query)

    return command


def run(model: type[PageQuery], *arguments: str, exclude: tuple[str, ...] = ()) -> PageQuery:
    seen: list[PageQuery] = []
    result = CliRunner().invoke(make_command(model, seen, exclude=exclude), arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return seen[0]


def test_options_become_the_query() -> None:
    """Each option sets its field; without the option, the field has its default."""
    query = run(WebhookQuery, "--connection", "c1", "--state", "failed", "--since", "2026-01-02", "--limit", "3")

    assert query == WebhookQuery(
        connection_id="c1", state="failed", since=datetime(2026, 1, 2, tzinfo=UTC), limit=3, after=None
    )
    assert run(EventQuery) == EventQuery()


@pytest.mark.parametrize(
    "arguments",
    [("--state", "no"), ("--limit", "0"), ("--limit", "1001"), ("--unknown", "1")],
    ids=["choice", "too low", "too high", "unknown"],
)
def test_click_refuses_invalid_values(arguments: tuple[str, ...]) -> None:
    """The choices and bounds of a field are those of its option; exit code 2."""
    result = CliRunner().invoke(make_command(WebhookQuery, []), arguments)

    assert (result.exit_code, arguments[0] in result.output) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "option"), [(("--since", "yesterday"), "--since"), (("--connection", ""), "--connection")]
)
def test_an_error_of_the_model_names_the_option(arguments: tuple[str, ...], option: str) -> None:
    """The message has the name of the option, not of the field."""
    with pytest.raises(UsageError, match=f"^{option}: "):
        run(WebhookQuery, *arguments)


def test_a_field_can_be_excluded() -> None:
    """``events list`` has no long poll."""
    result = CliRunner().invoke(make_command(EventQuery, [], exclude=("wait",)), ["--wait", "1"])

    assert (result.exit_code, "No such option" in result.output) == (2, True)


def test_help_has_the_descriptions_of_the_fields() -> None:
    """Without Markdown; filters come before the options of paging."""
    text = CliRunner().invoke(make_command(WebhookQuery, []), ["--help"]).output

    assert "Only webhooks in this state" in text
    assert "`" not in text
    assert text.index("--connection") < text.index("--limit")

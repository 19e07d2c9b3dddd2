from alembic.config import Config
from alembic.script import ScriptDirectory

from migrations import revisions


def test_the_revision_file_names_match_alembic() -> None:
    """The revision check does not import Alembic, but returns the same revisions."""
    config = Config()
    config.set_main_option("script_location", str(revisions.FOLDER.parent))
    config.set_main_option("path_separator", "newline")
    scripts = ScriptDirectory.from_config(config)

    assert [script.revision for script in scripts.walk_revisions()][::-1] == revisions.list_known_revisions()
    assert scripts.get_current_head() == revisions.get_head_revision()

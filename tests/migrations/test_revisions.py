from alembic.config import Config
from alembic.script import ScriptDirectory

from migrations import revisions


def test_the_names_of_the_files_are_the_revisions_of_alembic() -> None:
    """The check of revisions does not import Alembic, and comes to what Alembic would."""
    config = Config()
    config.set_main_option("script_location", str(revisions.FOLDER.parent))
    config.set_main_option("path_separator", "newline")
    scripts = ScriptDirectory.from_config(config)

    assert [script.revision for script in scripts.walk_revisions()][::-1] == revisions.list_known_revisions()
    assert scripts.get_current_head() == revisions.get_head_revision()

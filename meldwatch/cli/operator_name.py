"""Name of the operator who runs a command, for the audit log: the user of the process."""

import os
import pwd


def get_operator_name() -> str:
    """Return the name of this command's user for the audit log. The environment cannot change it."""
    uid = os.geteuid()
    try:
        return f"cli:{pwd.getpwuid(uid).pw_name}"
    except KeyError:  # as in a container
        return f"cli:uid {uid}"

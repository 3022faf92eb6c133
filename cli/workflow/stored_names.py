"""Names of what `infer` puts into the store: readable, and told apart by the content that they stand for."""

import re

from cli.workflow.fingerprints import digest_of


def stored_name(stem: str, content: object) -> str:
    """Return a name that begins like a file's, however long or foreign that is, and ends with a digest.

    content: a JSON value that decides about what is stored under the name.
    """
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", stem)[:60].strip("-._") or "videos"
    return f"{readable}-{digest_of(content)[:16]}"

"""Names of files, which may hold any byte but ``/`` and NUL, where not all of them will do."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import PurePath

LONGEST = 255  # bytes of a name on nearly every file system
SUFFIX = 16  # bytes up to which a suffix says what a file is
# Control characters, marks that turn the direction of writing, and bytes that are no UTF-8: on a
# terminal, they could hide or fake what else stands there.
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def shortened(name: str, most: int = LONGEST) -> str:
    """``name`` in at most ``most`` bytes: of a longer one its beginning, a hash, and its suffix."""
    content = os.fsencode(name)
    if len(content) <= most:
        return name
    suffix = PurePath(name).suffix
    if len(os.fsencode(suffix)) > SUFFIX:
        suffix = ""
    end = f"-{hashlib.sha256(content).hexdigest()[:8]}{suffix}"
    return content[: most - len(os.fsencode(end))].decode(errors="ignore") + end


def writable(text: str) -> bool:
    """Whether ``text`` is UTF-8, as tables and settings are: names of old file systems are not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printed(text: str) -> str:
    """On one line, with what a terminal would obey or hide as its escape: ``\\x1b``, ``\\n``."""
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)

"""What a machine may lack while a command works (room, rights, memory), as one line of plain words.

Libraries wrap the errors of the operating system in their own; all of them end here.
"""

from __future__ import annotations

import errno
import os
import re
import resource
from contextlib import suppress
from pathlib import Path

# What torch says of memory, on a CPU and on GPUs, and of sizes beyond any memory.
NO_MEMORY = re.compile(
    r"can't allocate memory|out of memory|not enough memory|bad_alloc|cannot allocate memory"
    r"|storage size calculation overflowed|invalid buffer size|integer multiplication overflow",
    re.IGNORECASE,
)
ASKED = re.compile(
    r"tried to allocate ([\d.]+) ?([KMGT]i?B|bytes)|unable to allocate ([\d.]+ \w+)", re.I
)
# What torch and safetensors say of a file that could not be written.
NOT_WRITTEN = re.compile(
    r"PytorchStreamWriter|unexpected pos \d|I/O error|os error \d", re.IGNORECASE
)
# What a file system says that takes no more, whatever is written to it.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
LESS = (
    "use smaller values of data.size, backbone.batch_size, method.batch_size, head.hidden or "
    "head.blocks, or fewer processes at once"
)


def lack(error: BaseException) -> str | None:
    """One line about what the machine lacked; ``None`` for an error of any other kind.

    The line names the file where the error does (see ``common.files.named``).
    """
    if isinstance(error, BrokenPipeError):
        return None  # nobody reads what the command prints
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and NO_MEMORY.search(str(error))
    ):
        return f"not enough memory{_asked(str(error))}: {LESS}"
    if isinstance(error, OSError):
        reason = reason_of(error)
        return f"{os.fsdecode(error.filename)}: {reason}" if error.filename else reason
    if not_written(error):
        return f"a file cannot be written: {reason_of(error)}"
    return lack(error.__cause__) if error.__cause__ else None


def memory_bytes() -> int:
    """The memory that this process can have at most: the machine's, its container's, or its own
    limit, whichever is least."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # "max" where there is none
            limits.append(int(Path(file).read_text()))
    if (own := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        limits.append(own)
    return min(limits)


def not_written(error: BaseException) -> bool:
    """Whether this is a library's word for a file that it could not write."""
    named = type(error).__name__ == "SafetensorError" or isinstance(error, RuntimeError)
    return named and bool(NOT_WRITTEN.search(str(error)))


def reason_of(error: BaseException) -> str:
    """Why a file could not be read or written, in the operating system's words where it has any."""
    known = getattr(error, "strerror", None)
    if isinstance(known, str) and known:
        return known
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    # As NumPy says it: a file system may report a full disk by a short write alone.
    return "not all of it could be written" if re.match(r"\d+ requested and", first) else first


def _asked(text: str) -> str:
    """How much was asked for, where the message says it."""
    found = ASKED.search(text)
    if not found:
        return ""
    if found[3]:
        return f" ({found[3]} asked for)"
    if found[2].lower() == "bytes":
        return f" ({float(found[1]) / 2**30:.3g} GiB asked for)"
    return f" ({found[1]} {found[2]} asked for)"

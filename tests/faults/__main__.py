"""``python -m faults [--out FILE] [--share 0.1] [--only KIND ...] [--jobs 2] [--seed 0]``"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from faults import outcomes
from faults.kinds import KINDS, tried
from faults.outcomes import Tried
from faults.processes import warm

SHOWN = 20  # faults of a kind that are named


def main(argv: Sequence[str] | None = None) -> int:
    """Try, print and write the table; 1 where something went wrong."""
    parser = argparse.ArgumentParser(prog="faults", description=__doc__)
    parser.add_argument("--out", type=Path, help="write table and faults there, as Markdown")
    parser.add_argument("--share", type=float, default=1.0, help="of the tries of each kind")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep what is left there")
    asked = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = "1"
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    warm()
    try:
        found = in_lanes(folder, asked.only, asked.share, asked.seed, asked.jobs)
    finally:
        if not asked.folder:
            shutil.rmtree(folder, ignore_errors=True)
    minutes = (time.monotonic() - began) / 60
    text = f"{outcomes.table(found)}\n{len(found)} tries in {minutes:.0f} minutes\n"
    print(f"\n{text}")
    if asked.out:
        asked.out.write_text(text + named(found), encoding="utf-8")
    return int(bool(outcomes.faults(found)))


def named(found: Sequence[Tried]) -> str:
    """Markdown: the faults of each kind."""
    lines: list[str] = []
    for kind in dict.fromkeys(t.kind for t in found):
        faults = [t for t in outcomes.faults(found) if t.kind == kind]
        lines += [f"- {t}" for t in faults[:SHOWN]]
        if len(faults) > SHOWN:
            lines.append(f"- {kind}: and {len(faults) - SHOWN} more")
    return "\n".join(["", *lines, ""]) if lines else ""


def in_lanes(folder: Path, kinds: Sequence[str], share: float, seed: int, jobs: int) -> list[Tried]:
    """The tries of all kinds, in ``jobs`` forked processes that each take the next kind."""
    todo, done = folder / "todo", folder / "tried.jsonl"
    todo.mkdir(exist_ok=True)
    done.unlink(missing_ok=True)
    for kind in kinds:
        (todo / kind).touch()
    sys.stdout.flush()
    lanes = []
    for _ in range(jobs):
        pid = os.fork()
        if not pid:
            os._exit(lane(folder, kinds, share, seed))
        lanes.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in lanes]
    if any(codes):
        raise SystemExit("the harness itself failed, see above")
    lines = done.read_text().splitlines() if done.is_file() else []
    found = [Tried(**json.loads(line)) for line in lines]
    return sorted(found, key=lambda t: list(KINDS).index(t.kind))


def lane(folder: Path, kinds: Sequence[str], share: float, seed: int) -> int:
    code = 0
    for kind in kinds:
        try:
            (folder / "todo" / kind).unlink()  # whoever gets it away does it
        except FileNotFoundError:
            continue
        try:
            for one in tried(kind, folder / kind, share, seed):
                line = json.dumps(asdict(one)) + "\n"
                with (folder / "tried.jsonl").open("a") as file:
                    file.write(line)
                if one.outcome in outcomes.FAULTS:
                    print(one, flush=True)
        except Exception:
            traceback.print_exc()
            code = 1
        print(f"{kind} done", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())

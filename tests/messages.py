"""Every message that the package can end with, from its source; and docs/errors.md up to date.

``python tests/messages.py`` writes the page's tables anew: what a row says to do is kept, also
where its message has changed a little; a new message gets an empty cell, to be filled in by hand.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE, PAGE = ROOT / "src" / "rad_lightning", ROOT / "docs" / "errors.md"
BEGIN, END = "<!-- every message: python tests/messages.py -->", "<!-- end of the messages -->"
# Where an error's message is among its arguments.
ERRORS = {
    "UserError": 0,
    "BusyError": 0,
    "DivergedError": 0,
    "CellsFailedError": 0,
    "BadImage": 1,
}
ANY = "…"  # stands for what differs
WORDS = re.compile(r"[a-z]{2,}", re.I)
ALIKE = 0.7  # from here on, a changed message keeps its answer

OTHER = "Others"
# The longest place that holds a message's file names its section.
SECTIONS = {
    "cli.py": "Commands and settings",
    "config/commands.py": "Commands and settings",
    "config": "Commands and settings",
    "launchers": "Sweeps and launchers",
    "sweep": "Sweeps and launchers",
    "data/archive.py": "Archives",
    "data/images.py": "Images and masks",
    "data/noise.py": "Label noise",
    "data/synthetic": "Label noise",
    "data/synthetic_anomalies": "Label noise",
    "data": "Data",
    "features": "Backbone and features",
    "flows": "Training",
    "meta": "Training",
    "methods": "Training",
    "robust": "Training",
    "training": "Training",
    "evaluation": "Training",
    "common/runs.py": "Runs, disks and processes",
    "common": "Runs, disks and processes",
    "inference": "predict and export",
    "commands/predict.py": "predict and export",
    "commands/export.py": "predict and export",
    "commands/prepare.py": "Data",
    "commands/train.py": "Training",
    "commands/audit.py": "audit",
    "audit": "audit",
    "commands/report.py": "report",
    "report": "report",
    "pages": "report",
    "commands/tune.py": "tune",
    "commands/dashboards.py": "Weights & Biases",
    "tracking": "Weights & Biases",
}


def messages() -> dict[str, str]:
    """Message, with ``…`` for what differs -> its section, in the order of the sections."""
    found: dict[str, str] = {}
    for file in sorted(SOURCE.rglob("*.py")):
        section = section_of(file.relative_to(SOURCE).as_posix())
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for text in texts(node):
                # One that only passes on what another said has no words of its own.
                if len(WORDS.findall(text)) >= 2:
                    found.setdefault(text, section)
    order = [*dict.fromkeys(SECTIONS.values()), OTHER]
    return dict(sorted(found.items(), key=lambda item: (order.index(item[1]), item[0])))


def section_of(place: str) -> str:
    fitting = [p for p in SECTIONS if place == p or place.startswith(f"{p}/")]
    return SECTIONS[max(fitting, key=len)] if fitting else OTHER


def texts(node: ast.AST) -> Iterator[str]:
    """The message of a call such as ``UserError(f"...")``; both of one that is either."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return
    at = ERRORS.get(node.func.id)
    if at is None or len(node.args) <= at:
        return
    for text in spelled(node.args[at]):
        yield re.sub(rf"{ANY}(\s*{ANY})+", ANY, " ".join(text.split()))


def spelled(node: ast.expr) -> list[str]:
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            return ["".join(spelled(p)[0] if isinstance(p, ast.Constant) else ANY for p in parts)]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return [a + b for a in spelled(left) for b in spelled(right)]
        case ast.IfExp(body=one, orelse=other):
            return [*spelled(one), *spelled(other)]
        case _:
            return [ANY]


def answers(page: str) -> dict[str, str]:
    """Message -> what to do, of the page's rows."""
    rows = re.findall(r"^\| `` ?(.*?) ?`` \| (.*?) ?\|$", page, re.M)
    return {message.replace("\\|", "|"): answer.strip() for message, answer in rows}


def answer_to(message: str, known: dict[str, str]) -> str:
    if message in known:
        return known[message]
    near = difflib.get_close_matches(message, known, n=1, cutoff=ALIKE)
    return known[near[0]] if near else ""


def tables(known: dict[str, str]) -> str:
    """The page's sections."""
    lines: list[str] = []
    section = ""
    for message, of in messages().items():
        if of != section:
            section = of
            lines += ["", f"### {section}", "", "| message | what to do |", "|---|---|"]
        shown = message.replace("|", "\\|")
        lines.append(f"| `` {shown} `` | {answer_to(message, known)} |".replace("|  |", "| |"))
    return "\n".join(lines).strip() + "\n"


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    text = f"{head}{BEGIN}\n\n{tables(answers(page))}\n{END}{tail}"
    PAGE.write_text(text, encoding="utf-8")
    left = [m for m, a in answers(text).items() if not a]
    print(f"{len(messages())} messages, {len(left)} without what to do", *left, sep="\n")


if __name__ == "__main__":
    main()

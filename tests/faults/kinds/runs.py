"""Run folders made by somebody who means harm: data, nothing more."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from faults.base import Reference, drawn, photos, reference, scratch
from faults.processes import PATIENCE, Forked

SECRET = "s3cr3t-of-the-environment"
EXECUTED, ESCAPED = "executed", "escaped"
LIMIT = 8 * 2**30  # bytes of address space beyond which a foreign file is too greedy

BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(9)
)


class Evil:
    """A pickle that leaves a mark where it is loaded."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch {Path(os.environ['RAD_MARK'])}",)


def _json(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(run: Path) -> None:
        content = json.loads((run / "result.json").read_text())
        change(content)
        (run / "result.json").write_text(json.dumps(content))

    return apply


def _text(name: str, text: str) -> Callable[[Path], None]:
    return lambda run: (run / name).write_text(text)  # type: ignore[return-value]


def _instead(name: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    def apply(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        make(run / name)

    return apply


def _config(old: str, new: str) -> Callable[[Path], None]:
    def apply(run: Path) -> None:
        text = (run / "config.yaml").read_text()
        lines = [new if line.strip().startswith(old) else line for line in text.splitlines()]
        (run / "config.yaml").write_text("\n".join(lines) + "\n")

    return apply


def _worst(**entry: Any) -> Callable[[dict[str, Any]], Any]:
    about = {"file": "worst_0.jpg", "path": "a.png", "label": 1, "score": 1.0, "margin": 1.0}
    return lambda c: c.__setitem__("worst", [{**about, "flagged": True, **entry}])


def _big(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(40 * 2**30)  # takes no room


def _evil(run: Path) -> None:
    (run / "last.ckpt").write_bytes(pickle.dumps({"state_dict": Evil()}))


def _evil_zip(run: Path) -> None:
    import torch

    torch.save({"state_dict": Evil(), "global_step": 1}, run / "last.ckpt")


HOSTILE: dict[str, Callable[[Path], None]] = {
    "result null": _text("result.json", "null"),
    "result a text": _text("result.json", '"metrics"'),
    "result a list": _text("result.json", '["metrics"]'),
    "result of metrics alone": _text("result.json", '{"metrics": {}}'),
    "result deep": _text("result.json", "[" * 100_000),
    "result a folder": _instead("result.json", Path.mkdir),
    "result a pipe": _instead("result.json", os.mkfifo),
    "result of 40 GiB": _instead("result.json", _big),
    "result a loop": _instead("result.json", lambda p: p.symlink_to(p)),
    "result's secret": _json(lambda c: c["config"].__setitem__("output", "${oc.env:RAD_SECRET}")),
    "result's secret root": _json(
        lambda c: c["config"]["data"].__setitem__("root", "${oc.env:RAD_SECRET}")
    ),
    "result's secret name": _json(lambda c: c.__setitem__("run", "${oc.env:RAD_SECRET}")),
    "result's output elsewhere": _json(
        lambda c: c["config"].__setitem__("output", os.environ.get("RAD_AWAY", "/x"))
    ),
    "result's huge flow": _json(lambda c: c["config"]["head"].__setitem__("hidden", 10**9)),
    "result's huge input": _json(lambda c: c["config"]["data"].__setitem__("size", [10**6] * 2)),
    "result's picture above": _json(_worst(file="../../secret.jpg")),
    "result's picture a pipe": lambda run: (
        os.mkfifo(run / "worst_0.jpg"),
        _json(_worst())(run),
    )[1],
    "result's markup": _json(lambda c: c.__setitem__("category", "<script>x</script>[red]")),
    "result's formula": _json(lambda c: c.__setitem__("category", "=cmd|' /C calc'!A0")),
    "result's NaN threshold": _json(lambda c: c["threshold"].__setitem__("value", float("nan"))),
    "result's infinite spread": _json(lambda c: c["threshold"].__setitem__("spread", 1e400)),
    "result's method unknown": _json(lambda c: c["config"]["method"].__setitem__("name", "x")),
    "config a bomb": _text("config.yaml", BOMB),
    "config an object": _text("config.yaml", "!!python/object/apply:os.system ['touch x']\n"),
    "config deep": _text("config.yaml", "[" * 50_000),
    "config a pipe": _instead("config.yaml", os.mkfifo),
    "config of 40 GiB": _instead("config.yaml", _big),
    "config's secret output": _config("output:", "output: ${oc.env:RAD_SECRET}"),
    "config's secret root": _config("root:", "  root: ${oc.env:RAD_SECRET}"),
    "config's cache elsewhere": _config("dir:", "  dir: ${oc.env:RAD_AWAY}"),
    "checkpoint a pickle": _evil,
    "checkpoint a zip with a pickle": _evil_zip,
    "checkpoint a pipe": _instead("last.ckpt", os.mkfifo),
    "checkpoint a folder": _instead("last.ckpt", Path.mkdir),
    "checkpoint of 40 GiB": _instead("last.ckpt", _big),
    "checkpoint a loop": _instead("last.ckpt", lambda p: p.symlink_to(p)),
    "manifest a pipe": _instead("manifest.csv", os.mkfifo),
    "manifest above": _text(
        "manifest.csv",
        "path,sha256,category,label,defect_type,group,role\n"
        "../../../etc/passwd,0,x,0,good,g,train\n",
    ),
    "manifest a long cell": _text("manifest.csv", "path,sha256\n" + "x" * 10**7),
    "scores a pipe": _instead("scores.csv", os.mkfifo),
    "metrics a pipe": _instead("metrics.csv", os.mkfifo),
}

COMMANDS: dict[str, Callable[[Path], tuple[str, ...]]] = {
    "predict": lambda run: ("predict", f"checkpoint={run}", "output=out", "progress=false"),
    "audit": lambda run: ("audit", f"run={run}", "output=out", "progress=false"),
    "report": lambda run: ("report", f"sweep={run.parent}"),
    "export": lambda run: ("export", f"checkpoint={run}", "format=torch", "output=out"),
}


def hostile(folder: Path, count: int, seed: int) -> Iterator[tuple[Any, ...]]:
    """Each command on each folder: nothing is executed, told or written elsewhere."""
    data = photos(folder / "photos")
    whole = reference(folder / "whole", data=data)
    os.environ.update(RAD_SECRET=SECRET, RAD_MARK=str(folder / EXECUTED))
    os.environ["RAD_AWAY"] = str(folder / ESCAPED)
    every = [(name, command) for name in HOSTILE for command in COMMANDS]
    chosen = drawn(seed, "hostile").permutation(len(every))[: 3 * count]
    for index in sorted(chosen):
        yield _tried(folder, whole, data, *every[index])


def _tried(folder: Path, whole: Reference, data: Path, name: str, command: str) -> tuple[Any, ...]:
    with scratch(folder / "try") as here:
        run = shutil.copytree(whole.run, here / "runs" / whole.run.name)
        HOSTILE[name](run)
        asked = COMMANDS[command](run)
        if command == "predict":
            asked = (*asked, f"input={data / 'bad'}", "overlays=none")
        ended = _bounded(here, asked)
        wrong = None
        if SECRET in ended.out + ended.err or _holds(here, SECRET):
            wrong = "a variable of the environment was told"
        for mark in (EXECUTED, ESCAPED):
            if (folder / mark).exists():
                wrong = mark
                shutil.rmtree(folder / mark, ignore_errors=True)
                (folder / mark).unlink(missing_ok=True)
    if wrong:
        return f"{command}, {name}", "wrong", wrong
    return f"{command}, {name}", ended, None


def _bounded(here: Path, asked: tuple[str, ...]) -> Any:
    """The command with a bound on its memory: without it, a greedy one would take the machine's."""

    def run() -> None:
        import resource

        from rad_lightning.cli import main

        resource.setrlimit(resource.RLIMIT_AS, (LIMIT, resource.RLIM_INFINITY))
        main(list(asked))

    return Forked(run, here).wait(min(60.0, PATIENCE))


def _holds(folder: Path, text: str) -> bool:
    for file in folder.rglob("*"):
        if file.is_file() and file.stat().st_size < 2**22 and "runs" not in file.parts:
            try:
                if text.encode() in file.read_bytes():
                    return True
            except OSError:
                continue
    return any(text in part.name for part in folder.rglob("*"))

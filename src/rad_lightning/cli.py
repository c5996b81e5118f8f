"""The command line: command name -> config name -> function. The only file with ``hydra.main``."""

from __future__ import annotations

import difflib
import os
import re
import sys
import textwrap
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rad_lightning import launchers
from rad_lightning.common.environ import forget_ranks, variable
from rad_lightning.common.errors import CellsFailedError, UserError
from rad_lightning.common.machine import lack
from rad_lightning.common.names import printed, writable
from rad_lightning.common.processes import (
    TERMINATED,
    Terminated,
    asked_to_end,
    end_if_asked,
    signals_raise,
)
from rad_lightning.config import SCHEMAS, as_written, conf_dir, register_schemas, to_typed

# Each command is the function of its name in the module of its name in rad_lightning.commands.
COMMANDS = ("train", "predict", "export", "audit", "prepare", "report", "tune", "dashboards")
RESUMED = ("train", "tune")  # those that go on where they were interrupted

HELP = """\
rad_lightning - anomaly detection for "normal" images that are not all normal

usage: python -m rad_lightning [command] [key=value ...]

commands
  train       fit a detector and evaluate it (the default)
  predict     score new images with a trained detector: table, overlays, a page
  export      a trained detector as one ONNX or torch file
  audit       rank the training images by how likely they are mislabelled
  prepare     check a dataset: counts, unreadable files, duplicates; unpack an archive
  report      tables, plots and a page from the results of a sweep
  tune        look for the method's best settings (Bayesian optimisation with Optuna)
  dashboards  a Weights & Biases workspace and report over the runs of a project

examples
  python -m rad_lightning                                   the embedded synthetic images
  python -m rad_lightning data=mvtec data.root=DIR data.category=screw
  python -m rad_lightning data=folder data.root=DIR         DIR/good and DIR/bad
  python -m rad_lightning predict checkpoint=RUN input=DIR output=outputs/predict
  python -m rad_lightning export checkpoint=RUN format=onnx output=outputs/export
  python -m rad_lightning audit data=folder data.root=DIR apply=cleaned.csv
  python -m rad_lightning prepare data=ksdd2 data.root=DIR
  python -m rad_lightning +experiment=noise_sweep           noise x categories x methods x seeds
  python -m rad_lightning -m noise=replace noise.ratio=0,0.3 seed=0,1,2
  python -m rad_lightning report sweep=outputs/noise_sweep
  python -m rad_lightning tune noise=replace noise.ratio=0.2 trials=30 study=outputs/tune
  python -m rad_lightning dashboards project=rad_lightning sweep=noise_sweep dry_run=true

settings, each with its choices
{groups}
  backbone.weights=FILE      local weights, no network needed
  --cfg job                  print the whole configuration and stop
  --hydra-help               the options of Hydra itself
"""


def main(argv: list[str] | None = None) -> None:
    """Run one command.

    Exit codes: 0 done, 1 cells of a sweep failed, 2 wrong input (both one line on stderr), 130
    interrupted, 143 asked to end with SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    forget_ranks()
    with signals_raise():
        try:
            # Without it, Hydra prints its errors and exits by itself; here it is to raise them.
            with variable("HYDRA_FULL_ERROR", "1"):
                dispatch(arguments)
        except KeyboardInterrupt as reason:
            end_interrupted(arguments, asked_to_end() or reason)  # Ray makes one of the other
        except Exception as error:
            if asked := asked_to_end():  # the error is what a library made of it
                end_interrupted(arguments, asked)
            end_failed(error)


def end_interrupted(arguments: list[str], reason: KeyboardInterrupt) -> NoReturn:
    goes_on = split_command(arguments)[0] in RESUMED
    how = "to continue where it stopped" if goes_on else "to start over: no table was written"
    terminated = isinstance(reason, Terminated)
    what = "terminated" if terminated else "interrupted"
    print(f"{what}: run the same command again {how}", file=sys.stderr)
    sys.exit(TERMINATED if terminated else 130)


def end_failed(error: Exception) -> NoReturn:
    """One line where the mistake is the user's, a cell's or the machine's; else ``error``."""
    code, line = 2, None
    if isinstance(error, CellsFailedError):
        code, line = 1, str(error)
    elif not os.environ.get("HYDRA_FULL_ERROR"):
        ours = isinstance(error, UserError | HydraException | OmegaConfBaseException)
        line = one_line(error) if ours else lack(error)
    if not line:
        raise error
    print(f"error: {printed(line)}", file=sys.stderr)
    sys.exit(code)


def dispatch(arguments: list[str]) -> None:
    """Split off the command, then let Hydra compose its config and call it."""
    if wrong := [given for given in arguments if not writable(given)]:
        raise UserError(f"{printed(wrong[0])}: not a text in UTF-8; rename the file or folder")
    command, overrides = split_command(arguments)
    if "-h" in overrides or "--help" in overrides:
        print(HELP.format(groups=choices()), end="")
        return
    # Hydra needs its switch before the settings; users may write it anywhere.
    switches = [o for o in overrides if o in ("-m", "--multirun")]
    settings = [at_home(o) for o in overrides if o not in switches]
    check_written([*switches, *settings])
    several = bool(switches) or any(re.match(r"\+*(experiment|hydra\.mode)=", o) for o in settings)
    settings = [as_written(o, SCHEMAS[command], sweeps=several) for o in settings]
    register_schemas()
    launchers.check_asked(overrides)

    mistakes: list[Exception] = []
    composed = False

    def task(cfg: Any) -> None:
        nonlocal composed
        composed = True
        if command == "train" and in_sweep():
            launchers.prepare_process()
            function("sweep.jobs", "run_in_sweep")(to_typed(cfg))
            return
        # Kept until Hydra is done: it would add a second line to an exception.
        try:
            run = function(f"commands.{command}", command)
            end_if_asked()
            run(to_typed(cfg))
        except Exception as error:
            end_if_asked()
            if not isinstance(error, (UserError, OmegaConfBaseException)) and not lack(error):
                raise
            mistakes.append(error)

    sys.argv = ["rad_lightning", *switches, *settings]
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=command)(task)()
    except ValueError as error:
        if composed or isinstance(error, UserError):
            raise
        raise UserError(f"{' '.join(settings)}: {error}") from error
    if mistakes:
        more = f" (and {len(mistakes) - 1} more runs failed)" if len(mistakes) > 1 else ""
        raise UserError(one_line(mistakes[0]) + more) from mistakes[0]


def split_command(arguments: list[str]) -> tuple[str, list[str]]:
    """``["prepare", "data=mtd"] -> ("prepare", ["data=mtd"])``; no command means train."""
    if not arguments or arguments[0].startswith("-") or "=" in arguments[0]:
        return "train", arguments
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        raise UserError(
            f"{name!r} is neither a command ({', '.join(COMMANDS)}) nor a setting key=value"
        )
    return name, rest


def choices() -> str:
    """The groups of settings with their choices, as ``conf/`` has them, for the help."""
    lines = []
    for group in ("data", "noise", "head", "method", "backbone", "trainer", "logger"):
        names = ", ".join(sorted(file.stem for file in (conf_dir() / group).glob("*.yaml")))
        lines += textwrap.wrap(f"  {group + '=':10}{names}", 96, subsequent_indent=" " * 12)
    return "\n".join([*lines, "  hydra/launcher=basic, joblib, ray, slurm"])


def at_home(override: str) -> str:
    """``"data.root=~/photos"`` with the home folder: no shell expands ``~`` behind ``=``."""
    key, equal, value = override.partition("=")
    return key + equal + (str(Path(value).expanduser()) if value.startswith("~/") else value)


def check_written(overrides: list[str]) -> None:
    """Whether all are settings or options of Hydra's, which would print its whole usage.

    Raises:
        UserError: an unknown option, or a word that is not a setting.
    """
    known, others = get_args_parser().parse_known_args(overrides)
    for other in others:
        if other.startswith("-"):
            key = other.lstrip("-").partition("=")[0]
            raise UserError(f"{other!r} is not an option: settings have no dashes, {key}=VALUE")
        # argparse takes the positional ones in one piece.
        raise UserError(f"{other!r}: put options before or after all settings, not between them")
    for setting in known.overrides:
        if setting in COMMANDS:
            raise UserError(f"{setting!r}: the command comes first, then its settings")
        if "=" not in setting and not setting.startswith("~"):
            raise UserError(
                f"{setting!r} is not a setting key=value; put a value with blanks in quotes"
            )


def in_sweep() -> bool:
    """Whether the running Hydra job is a cell of a multirun: only those have a number."""
    return not OmegaConf.is_missing(HydraConfig.get().job, "num")


def function(module: str, name: str) -> Callable[[Any], None]:
    """Imported late: torch and Lightning take seconds that ``--help`` need not wait for."""
    run: Callable[[Any], None] = getattr(import_module(f"rad_lightning.{module}"), name)
    return run


def one_line(error: BaseException) -> str:
    """What was wrong, where, and what to do, out of Hydra's several lines."""
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    if not isinstance(error, HydraException) and (line := lack(error)):  # some are OSErrors
        return " ".join(line.split())
    text = "\n".join(str(e) for e in (error, error.__cause__) if e is not None)
    if found := re.search(r"Key '([^']+)' not in '(\w+)'", text):
        key, schema = found.groups()
        return f"unknown key {full_key(text, key)!r}{suggestion(key, schema)}"
    named = re.search(r"Could not (?:find|load) 'hydra/launcher/(\w+)'", text)
    if named and (needed := launchers.lacking(named.group(1))):
        return needed
    if found := re.search(
        r"Could not find '([^']+)'.*?Available options in '[^']+':\s*(.*?)\n\w", text + "\nX", re.S
    ):
        choice = found.group(1).split("/")
        options = ", ".join(o for o in found.group(2).split() if o != "schema")
        return f"{'/'.join(choice[:-1])}={choice[-1]}: choose one of {options}"
    if found := re.search(r"(Value '.*?'.*?)\n\s+full_key: (\S+)", text, re.S):
        return f"{found.group(2)}: {' '.join(found.group(1).split())}"
    if found := re.search(r"field '(\w+)' is not Optional", text):
        return f"{full_key(text, found.group(1))} = null: a value is needed"
    if found := re.search(r"mandatory value: (\S+)", text):
        return f"{full_key(text, found.group(1))}: a value is needed"
    if found := re.search(r"(Invalid value assigned: .*?)\n", text):
        return f"{full_key(text, 'setting')}: {found.group(1)}"
    return " ".join(text.split())


def full_key(text: str, key: str) -> str:
    found = re.search(r"full_key: (\S+)", text)
    return found.group(1) if found else key


def suggestion(key: str, schema: str) -> str:
    """The nearest keys of the schema class that Hydra named, or all of them."""
    from rad_lightning import config

    known = list(getattr(getattr(config, schema, None), "__dataclass_fields__", {}))
    near = difflib.get_close_matches(key, known, n=1)
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{meant}: choose one of {', '.join(known)}" if known else ""

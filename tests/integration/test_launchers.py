"""A sweep gives the same files whichever launcher runs its cells."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from support import HANG, SMALL_SYNTHETIC, command, started

pytestmark = pytest.mark.slow

SWEEP = ("-m", "seed=0,1", *SMALL_SYNTHETIC)
DDP = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
LAUNCHERS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", ("hydra.launcher.n_jobs=2",)),
    "ray": ("ray", ("hydra.launcher.num_cpus=2",)),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", ()),
    "slurm": ("hydra_plugins.hydra_submitit_launcher", ("hydra.launcher.partition=short",)),
}

# Slurm as submitit sees it: sbatch starts the tasks of the array, sacct tells which have ended.
SBATCH = """\
for script; do :; done
cp "$script" "$FAKE/submitted.sh"
if grep -q -e --array "$script"; then tasks="0 1"; else tasks=alone; fi
echo $tasks > "$FAKE/tasks"
for task in $tasks; do
  export SLURM_JOB_ID=7
  if [ $task != alone ]; then
    export SLURM_JOB_ID=7$task SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$task
  fi
  (bash "$script" > "$FAKE/task$task.log" 2>&1; touch "$FAKE/ended$task") > /dev/null 2>&1 &
done
echo "Submitted batch job 7"
"""
SRUN = """\
while true; do case "$1" in --output|--error) shift 2;; --*) shift;; *) break;; esac; done
export SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_JOB_NUM_NODES=1
export SLURM_JOB_NAME=rad_lightning SLURM_JOB_NODELIST=localhost SLURM_NTASKS_PER_NODE=1
exec "$@"
"""
SACCT = """\
echo "JobID|State|NodeList"
for task in $(cat "$FAKE/tasks"); do
  if [ -e "$FAKE/ended$task" ]; then state=COMPLETED; else state=RUNNING; fi
  echo "$([ $task = alone ] && echo 7 || echo 7_$task)|$state|localhost"
done
"""
SCONTROL = "echo localhost\n"


def sweep(folder: Path, *more: str, **variables: str) -> dict[str, Path]:
    """The run folders by name."""
    folder.mkdir(exist_ok=True)
    command(folder, *SWEEP, *more, env={**os.environ, **variables})
    found = (folder / "outputs" / "runs").glob("*/result.json")
    return {path.parent.name: path.parent for path in found}


def results(runs: dict[str, Path]) -> dict[str, dict[str, object]]:
    return {name: json.loads((run / "result.json").read_text()) for name, run in runs.items()}


def computed(runs: dict[str, Path]) -> int:
    """Images that went through the backbone, over all runs."""
    return sum(r["features"]["computed"] for r in results(runs).values())  # type: ignore[index]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sweep by Hydra's own launcher, cell after cell."""
    return sweep(tmp_path_factory.mktemp("basic"))


@pytest.fixture
def fake_slurm(tmp_path: Path) -> dict[str, str]:
    """Variables of a shell that finds a Slurm with two free nodes."""
    fake = tmp_path / "slurm"
    fake.mkdir()
    for name, text in (
        ("sbatch", SBATCH),
        ("srun", SRUN),
        ("sacct", SACCT),
        ("scontrol", SCONTROL),
    ):
        (fake / name).write_text(f"#!/bin/bash\n{text}")
        (fake / name).chmod(0o755)
    return {"FAKE": str(fake), "PATH": f"{fake}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.parametrize(
    "name",
    [
        "slurm",
        *(pytest.param(n, marks=pytest.mark.long) for n in ("joblib", "ray", "submitit_local")),
    ],
)
def test_every_launcher_gives_the_same_files(
    name: str, tmp_path: Path, one_process: dict[str, Path], fake_slurm: dict[str, str]
) -> None:
    package, settings = LAUNCHERS[name]
    pytest.importorskip(package, reason=f"hydra/launcher={name} is not installed")
    runs = sweep(tmp_path / "sweep", f"hydra/launcher={name}", *settings, **fake_slurm)
    assert len(runs) == 2 and runs.keys() == one_process.keys()
    for run, other in ((runs[key], one_process[key]) for key in runs):
        for file in ("manifest.csv", "metrics.csv", "scores.csv"):
            assert (run / file).read_bytes() == (other / file).read_bytes(), file
    expected = {key: r["metrics"] for key, r in results(one_process).items()}
    assert {key: r["metrics"] for key, r in results(runs).items()} == expected
    assert computed(runs) == 14  # the cells share the cache: each image once
    if name == "slurm":
        submitted = Path(fake_slurm["FAKE"], "submitted.sh").read_text()
        for line in (
            "--partition=short",
            "--gpus-per-node=1",
            "--cpus-per-task=4",
            "--mem=16GB",
            "--time=240",
            "--array=0-1%2",
        ):
            assert f"#SBATCH {line}\n" in submitted
        assert "export OMP_NUM_THREADS=4\n" in submitted


@pytest.mark.long
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", ["joblib", "ray"])
def test_a_signal_ends_a_sweep_of_several_processes(
    name: str, tmp_path: Path, sent: signal.Signals
) -> None:
    package, settings = LAUNCHERS[name]
    pytest.importorskip(package, reason=f"hydra/launcher={name} is not installed")
    launched = (f"hydra/launcher={name}", *settings, "method.steps=100000", "output=cut")
    with started(tmp_path, *SWEEP, *launched) as process:
        deadline = time.monotonic() + HANG
        while not list(tmp_path.glob("cut/*/metrics.csv")):  # both trains, or one of them
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        process.send_signal(sent)
        _, told = process.communicate(timeout=HANG)
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}[sent]
    (line,) = told.splitlines()
    assert line.startswith(("terminated: ", "interrupted: "))


@pytest.mark.long
@pytest.mark.parametrize("name", ["joblib", "slurm"])  # the two that needed care
def test_a_cell_may_start_processes_of_its_own(
    name: str, tmp_path: Path, fake_slurm: dict[str, str]
) -> None:
    package, settings = LAUNCHERS[name]
    pytest.importorskip(package, reason=f"hydra/launcher={name} is not installed")
    one = ("seed=0", f"hydra/launcher={name}", *settings)
    runs = sweep(tmp_path / "sweep", *DDP, *one, **fake_slurm)
    assert len(runs) == 1 and computed(runs) == 14

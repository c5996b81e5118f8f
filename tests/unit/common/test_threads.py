"""How many threads compute what: who decides, that all is put back, that numbers stay the same."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
import torch

from rad_lightning.common.threads import cores, each, flow_threads, limited, torch_threads
from rad_lightning.flows.heads import Head, HeadSpec
from rad_lightning.launchers import divided

USUAL = (1024, 128)  # samples of a step, hidden units


@pytest.fixture(autouse=True)
def nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.parametrize(("value", "found"), [("3", 3), ("4,2", 4), (" 5 ", 5)])
def test_a_users_own_number_of_threads_is_respected(
    monkeypatch: pytest.MonkeyPatch, value: str, found: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert cores() == found


@pytest.mark.parametrize("value", ["", "0", "many"])
def test_otherwise_what_the_process_may_use(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    monkeypatch.setattr("joblib.cpu_count", lambda: 7)
    assert cores() == 7


def test_a_limit_overrides_and_all_is_put_back() -> None:
    with torch_threads(2):
        with pytest.raises(KeyError), limited(5):
            assert cores() == 5 and torch.get_num_threads() == 1
            assert flow_threads(*USUAL) == 5
            raise KeyError
        assert torch.get_num_threads() == 2
        with limited(4), limited(None):  # no limit of its own
            assert cores() == 4
    assert cores() != 5


def test_only_large_flows_train_with_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert flow_threads(*USUAL) == 1
    assert flow_threads(4096, 256) == 2
    assert flow_threads(4096, 4096) == 8


@pytest.mark.parametrize("count", [1, 3])
def test_parts_keep_their_order_one_thread_each_without_gradients(count: int) -> None:
    names: set[str] = set()

    def seen(part: int) -> tuple[int, int, bool]:
        names.add(threading.current_thread().name)
        return part, torch.get_num_threads(), torch.is_grad_enabled()

    with limited(count):
        found = each(seen, list(range(50)))
    assert found == [(i, 1, False) for i in range(50)]
    assert len(names) <= count


def test_what_runs_on_another_device_is_not_shared_out() -> None:
    names = set()
    with limited(4):
        each(lambda _: names.add(threading.current_thread().name), range(9), torch.device("meta"))
    assert names == {threading.current_thread().name}


def test_scores_do_not_depend_on_the_number_of_threads() -> None:
    spec = HeadSpec((8, 8), 16, 8, 2, 16, 1.0, 4, 0.03, "nll", 0)
    head = Head(spec)
    samples = torch.randn(40, 1, 64, 8, generator=torch.Generator().manual_seed(0))
    samples[0, 0, 3] = torch.nan
    found = []
    for count in (1, 2, 5):
        with limited(count):
            found.append(head.position_scores(samples))
    assert found[0].isnan().sum() == 1
    assert torch.equal(found[0].nan_to_num(), found[1].nan_to_num())
    assert torch.equal(found[0].nan_to_num(), found[2].nan_to_num())


def test_threads_wait_asleep_unless_the_user_says_otherwise() -> None:
    code = "import rad_lightning, os; print(os.environ['OMP_WAIT_POLICY'])"
    for own, found in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        kept = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
        answer = subprocess.run(
            [sys.executable, "-c", code], env=kept | own, capture_output=True, text=True, check=True
        )
        assert answer.stdout.strip() == found


def test_cells_that_all_run_at_once_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    class Local:
        _EXECUTOR = "local"

    with limited(8):
        with divided(Local(), 3):
            assert os.environ["OMP_NUM_THREADS"] == "2"
        with divided(Local(), 30):
            assert os.environ["OMP_NUM_THREADS"] == "1"
        with divided(object(), 3):
            assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    with divided(Local(), 3):
        assert os.environ["OMP_NUM_THREADS"] == "6"

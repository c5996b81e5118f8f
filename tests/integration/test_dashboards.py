"""``dashboards``: what it would create, what it sends, and one line where it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rad_lightning.tracking.charts import CHARTS
from support import Cli, command, nobody

pytestmark = pytest.mark.slow
PANELS = (
    "Image AUROC over label noise by method (CustomChart)",
    "Image AUROC over label noise, one standard deviation (LinePlot)",
    "Mean image AUROC by category and label noise (CustomChart)",
    "Uncertainty U (LinePlot)",
    "Penalty weight λ(U) (LinePlot)",
    "Worst test images (MediaBrowser)",
    "Training images held for mislabelled (WeavePanelSummaryTable)",
    "the runs table: image_auroc, category, method",
)


def test_a_dry_run_names_sections_and_panels_without_a_login(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    nobody(monkeypatch, tmp_path)
    assert cli("dashboards", "entity=team", "sweep=my_sweep", "dry_run=true") == 0
    told = capsys.readouterr().out
    assert "'Label noise: my_sweep' in team/rad_lightning" in told
    for panel in PANELS:
        assert panel in told
    assert told.endswith("nothing was sent\n")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ([], "dashboards: not logged in to W&B; run `wandb login` or set WANDB_API_KEY"),
        (["project=a/b"], "project = 'a/b': use only letters, digits"),
        (['sweep="don\'t"'], "sweep = don't: use a name without quotes"),
        (["swep=x"], "unknown key 'swep' (did you mean 'sweep'?)"),
    ],
)
def test_what_cannot_be_is_one_line(
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    settings: list[str],
    line: str,
) -> None:
    nobody(monkeypatch, tmp_path)
    assert cli("dashboards", *settings) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith(f"error: {line}")


def test_without_the_extra_it_says_what_to_install(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("rad_lightning.commands.dashboards", "rad_lightning.tracking.dashboards"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    assert cli("dashboards", "dry_run=true") == 2
    assert capsys.readouterr().err.strip() == (
        "error: dashboards needs wandb-workspaces: pip install 'rad-lightning[dashboards]'"
    )


@dataclass
class Server:
    """Answers W&B's GraphQL questions as an account ``me`` with a project ``p`` would get them."""

    address: str = ""
    refuse: str = ""  # a word in a question that is answered with an error
    views: list[dict[str, Any]] = field(default_factory=list)
    charts: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        if self.refuse and self.refuse in query:
            return {"errors": [{"message": "permission denied"}]}
        project = {"id": "1", "name": "p", "entityName": "me", "createdAt": "2026-01-01T00:00:00Z"}
        if "upsertView" in query:
            self.views.append(given)
            about = {"id": "Vmlldzox", "description": "", "project": project}
            kept = {key: given.get(key) for key in ("type", "name", "displayName", "spec")}
            dates = dict.fromkeys(("createdAt", "updatedAt"), "2026-01-01T00:00:00Z")
            return {"data": {"upsertView": {"view": about | kept | dates, "inserted": True}}}
        if "createCustomChart" in query:
            self.charts.append(given)
            return {"data": {"createCustomChart": {"chart": {"id": "x"}}}}
        if "viewer" in query:
            viewer = {"id": "1", "username": "me", "entity": "me", "flags": "{}"}
            return {"data": {"viewer": viewer | {"teams": {"edges": []}}}}
        if "models" in query:
            edges = [{"node": project | {"isBenchmark": False, "user": None}, "cursor": "c"}]
            page = {"endCursor": "c", "hasNextPage": False}
            return {"data": {"models": {"edges": edges, "pageInfo": page}}}
        internal = {"internalId": "UHJvamVjdEludGVybmFsSWQ6MQ=="}
        return {"data": {"project": project | internal}}


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked = json.loads(content)
            body = json.dumps(state.answer(asked["query"], asked.get("variables") or {})).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    state.address = f"http://127.0.0.1:{http.server_port}"
    yield state
    http.shutdown()
    http.server_close()


def ask(server: Server, home: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: W&B remembers for a whole process who is logged in."""
    account = {"WANDB_BASE_URL": server.address, "WANDB_API_KEY": "0" * 40, "HOME": str(home)}
    settings = ("dashboards", "project=p", *settings)
    return command(home, *settings, succeeds=False, env=os.environ | account)


def test_charts_workspace_and_report_are_sent(server: Server, tmp_path: Path) -> None:
    done = ask(server, tmp_path, "sweep=my_sweep")
    assert done.returncode == 0, done.stderr
    assert f"workspace: {server.address}/me/p?nw=" in done.stdout
    assert f"report:    {server.address}/me/p/reports/" in done.stdout
    assert "note:" not in done.stdout
    assert [c["chartName"] for c in server.charts] == [chart.name for chart in CHARTS]
    assert [json.loads(c["spec"]) for c in server.charts] == [chart.spec for chart in CHARTS]
    workspace, report = server.views
    for view in (workspace, report):
        assert view["displayName"] == "Label noise: my_sweep"
        for word in ("my_sweep", "pictures/worst", "train/lambda", "facts.value.method"):
            assert word in view["spec"]
        for chart in CHARTS:
            assert f"me/{chart.name}" in view["spec"]


def test_a_chart_that_is_refused_is_told_and_the_rest_is_made(
    server: Server, tmp_path: Path
) -> None:
    server.refuse = "createCustomChart"
    done = ask(server, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("note: chart me/rad-") == len(CHARTS)
    assert len(server.views) == 2


def test_a_server_that_refuses_is_one_line(server: Server, tmp_path: Path) -> None:
    server.refuse = "upsertView"
    done = ask(server, tmp_path)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: dashboards: W&B refused: "), done.stderr


@pytest.mark.long
def test_a_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    done = ask(Server(address="http://127.0.0.1:9"), tmp_path)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and "http://127.0.0.1:9" in lines[0], done.stderr

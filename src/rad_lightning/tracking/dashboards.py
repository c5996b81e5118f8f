"""The workspace and the report over many runs, built with wandb-workspaces.

``sections`` says what is shown, ``build`` makes a workspace and a report of it, ``save``
sends them.
Building needs neither a network nor a login.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Any

import wandb

from rad_lightning.common.errors import UserError
from rad_lightning.tracking.charts import CHARTS, COLUMNS, Chart
from rad_lightning.tracking.guard import STEP

try:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr
except ModuleNotFoundError as error:
    raise UserError(
        "dashboards needs wandb-workspaces: pip install 'rad-lightning[dashboards]'"
    ) from error

BY_METHOD = "facts.method"  # in a run's config
# What the runs table shows first, the best run on top.
TABLE = (
    "image_auroc", "category", "method", "head", "noise/mode", "noise/requested", "noise/achieved",
    "seed", "pixel_aupro", "trust_suspect_auroc",
)  # fmt: skip
SUSPECTS = "Training images held for mislabelled"
MEANS = "Image AUROC by method, one standard deviation"
SPREAD = "Image AUROC over label noise, one standard deviation"
MANY = 1000  # runs that a line may be drawn over; W&B's default shows ten
WIDE, HIGH = 12, 9  # a report's grid is 24 wide


@dataclass(frozen=True)
class Section:
    """A heading, a sentence, and panels by title."""

    title: str
    text: str
    panels: dict[str, Any]


@dataclass(frozen=True)
class Boards:
    """What ``dashboards`` makes, and the sections that both show."""

    workspace: ws.Workspace
    report: wr.Report
    sections: tuple[Section, ...]


def sections(entity: str) -> tuple[Section, ...]:
    """What a workspace and a report show. Panels are new objects: each belongs to one page.
    Long because it is the list of all panels."""
    noise, category = CHARTS
    return (
        Section(
            "Image AUROC over label noise",
            "Means over categories and seeds. A band is the 95 % interval of the mean "
            "(bootstrap over runs), or one standard deviation where a title says so.",
            {
                noise.title: chart(noise, entity),
                SPREAD: wr.LinePlot(
                    title=SPREAD,
                    x="noise/requested",
                    y=["image_auroc"],
                    title_x="requested label noise",
                    groupby=BY_METHOD,
                    groupby_aggfunc="mean",
                    groupby_rangefunc="stddev",
                    max_runs_to_show=MANY,
                ),
                MEANS: wr.BarPlot(
                    title=MEANS,
                    metrics=["image_auroc"],
                    groupby=BY_METHOD,
                    groupby_aggfunc="mean",
                    groupby_rangefunc="stddev",
                    max_runs_to_show=MANY,
                ),
            },
        ),
        Section(
            "Category by label noise",
            "Each category on its own: a mean can hide one whose AUROC drops.",
            {
                category.title: chart(category, entity),
                "Category, noise, method, image AUROC": wr.ParallelCoordinatesPlot(
                    title="Category, noise, method, image AUROC",
                    columns=[
                        wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(name), shown)
                        for name, shown in (
                            ("category", "category"),
                            ("noise/requested", "label noise"),
                            ("method", "method"),
                            ("image_auroc", "image AUROC"),
                        )
                    ],
                ),
            },
        ),
        Section(
            "Training curves: loss, uncertainty U, penalty weight λ(U)",
            "Means over the runs of a method, with one standard deviation. U and λ are there where "
            "a method has them.",
            {
                name: curve(name, key)
                for name, key in (
                    ("Training loss (NLL, nats per dimension)", "train/nll"),
                    ("NLL of held-out training images", "holdout/nll"),
                    ("Uncertainty U", "train/uncertainty"),
                    ("Penalty weight λ(U)", "train/lambda"),
                )
            },
        ),
        Section(
            "Worst failures",
            "Test images furthest on the wrong side of the threshold, and what the detector saw; "
            "training images that a method holds for mislabelled.",
            {
                name: wr.MediaBrowser(title=name, num_columns=columns, media_keys=[key])
                for name, key, columns in (
                    ("Worst test images", "pictures/worst", 2),
                    ("Anomaly maps: worst, median, best", "pictures/overlays", 3),
                    ("Test scores with the threshold", "pictures/histogram", 1),
                )
            }
            | {SUSPECTS: wr.WeavePanelSummaryTable(table_name="suspects")},
        ),
    )


def chart(drawn: Chart, entity: str) -> wr.CustomChart:
    """A panel with a chart of ours over the runs' tables ``cell``."""
    return wr.CustomChart(
        query={"summaryTable": {"tableKey": "cell"}},
        chart_name=f"{entity}/{drawn.name}",
        chart_fields={name: name for name in COLUMNS},
        chart_strings={"title": drawn.title},
    )


def curve(name: str, key: str) -> wr.LinePlot:
    """A curve of the training, a line per method."""
    return wr.LinePlot(
        title=name,
        x=STEP,
        y=[key],
        log_y=key == "train/lambda",  # it spans decades
        title_x="training step",
        groupby=BY_METHOD,
        groupby_aggfunc="mean",
        groupby_rangefunc="stddev",
        max_runs_to_show=MANY,
    )


def build(entity: str, project: str, sweep: str | None) -> Boards:
    """A workspace and a report over the trainings of ``project``, or those of one sweep.

    Args:
        entity: the account, a user or a team, that owns the project.
        sweep: W&B's *group*: the name of the sweep's folder. ``None``: all runs.
    """
    shown = sections(entity)
    boards = workspace(entity, project, sweep, shown), report(entity, project, sweep)
    return Boards(*boards, shown)


def workspace(
    entity: str, project: str, sweep: str | None, shown: Sequence[Section]
) -> ws.Workspace:
    return ws.Workspace(
        entity=entity,
        project=project,
        name=title(sweep),
        sections=[
            ws.Section(
                name=section.title,
                panels=list(section.panels.values()),
                is_open=True,
                layout_settings=ws.SectionLayoutSettings(columns=2, rows=2),
            )
            for section in shown
        ],
        runset_settings=ws.RunsetSettings(
            filters=filters(sweep),
            order=[expr.Ordering(expr.Summary("image_auroc"), ascending=False)],
            pinned_columns=[f"summary:{key}" for key in TABLE],
        ),
    )


def report(entity: str, project: str, sweep: str | None) -> wr.Report:
    def runs() -> wr.Runset:
        return wr.Runset(
            entity=entity,
            project=project,
            name=sweep or "all runs",
            filters=filters(sweep),
            order=[wr.OrderBy(wr.SummaryMetric("image_auroc"), ascending=False)],
            pinned_columns=["run:displayName", *(f"summary:{key}" for key in TABLE)],
        )

    blocks: list[Any] = [wr.TableOfContents()]
    for section in sections(entity):
        panels = list(section.panels.values())
        for number, panel in enumerate(panels):
            panel.layout = wr.Layout(number % 2 * WIDE, number // 2 * HIGH, WIDE, HIGH)
        grid = wr.PanelGrid(runsets=[runs()], hide_run_sets=True, panels=panels)
        blocks += [wr.H2(section.title), wr.P(section.text), grid]
    return wr.Report(
        project=project,
        entity=entity,
        title=title(sweep),
        description="Image AUROC under label noise: the trainings of rad_lightning.",
        blocks=[*blocks, wr.H2("Runs"), wr.PanelGrid(runsets=[runs()])],
        width="fluid",
    )


def title(sweep: str | None) -> str:
    return f"Label noise: {sweep or 'all runs'}"


def filters(sweep: str | None) -> list[Any]:
    """Trainings, of one sweep if one is named."""
    found = [expr.Metric("JobType") == "train"]
    return [*found, expr.Metric("Group") == sweep] if sweep else found


def save(boards: Boards) -> tuple[list[str], str, str]:
    """Send charts, workspace and report to W&B.

    Returns:
        Notes about charts, and the addresses of the workspace and of the report.

    Raises:
        UserError: the server does not answer, or refuses.
    """
    with redirect_stderr(io.StringIO()):  # the addresses, which the caller shows
        try:
            notes = list(register(boards.workspace.entity))
            return notes, boards.workspace.save().url, boards.report.save().url
        except Exception as error:  # of several libraries: GraphQL, requests, W&B's service
            raise UserError(f"dashboards: W&B refused: {error}") from error


def register(entity: str, charts: Sequence[Chart] = CHARTS) -> list[str]:
    """Put the charts under an account; a note for each that was refused.

    One that is there already is refused too, and W&B does not say which it was.
    """
    api, notes = wandb.Api(), []
    for drawn in charts:
        try:
            api.create_custom_chart(entity, drawn.name, drawn.title, "vega2", "private", drawn.spec)
        except Exception as error:
            notes.append(f"chart {entity}/{drawn.name} not created ({error}); is it there already?")
    return notes

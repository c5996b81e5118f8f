"""``audit``: images in; ``suspects.csv``, ``audit.json``, a page and a cleaned manifest out."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor

from rad_lightning.audit.evidence import Evidence, find_evidence
from rad_lightning.audit.page import RankedImage, make_cards, page
from rad_lightning.audit.ranking import Accuracy, Ranking, accuracy, rank
from rad_lightning.audit.source import audited_rows, cleaned_roles, key_of, of_run, only
from rad_lightning.audit.verdicts import Verdicts, believed, given, left_out, spoken
from rad_lightning.common.errors import UserError
from rad_lightning.common.names import printed
from rad_lightning.common.progress import Progress
from rad_lightning.common.runs import RunDirectory, environment
from rad_lightning.common.threads import limited
from rad_lightning.config import AuditConfig
from rad_lightning.data.dataset import Dataset
from rad_lightning.data.splits import Roles, read_manifest, write_manifest
from rad_lightning.data.verdicts import Verdict
from rad_lightning.features.backbone import HUB, UNTRAINED
from rad_lightning.robust.review import Reviewed, advice
from rad_lightning.robust.trusted import first_of_parts
from rad_lightning.training.finish import missed
from rad_lightning.training.inputs import prepare
from rad_lightning.training.job import Job, chosen_weights, open_job

FEWEST = 5  # images: of fewer, none could be called unlike the others
PRINTED = 10  # lines of the ranking on the terminal
OF_TRAINING = ("seed", "data", "backbone", "head", "cache", "trainer")


@dataclass(frozen=True)
class Audited:
    """The ranked images, and what came out. ``rows`` are theirs in ``data``; ``evidence`` is about
    those at the places ``shown`` of the ranking, on a ``grid`` (H, W)."""

    data: Dataset
    rows: list[int]
    ranking: Ranking
    lines: list[RankedImage]  # of the ranking
    accuracy: Accuracy | None
    shown: list[int]
    evidence: Evidence | None
    grid: tuple[int, int]
    verdicts: Verdicts  # a person's
    advice: str | None  # whether to judge more images


def audit(cfg: AuditConfig) -> RunDirectory:
    """Rank the training images, show why, and write the manifest without the suspects.

    Raises:
        UserError: whatever is wrong with the data, the run, the weights or the settings.
    """
    progress = Progress(quiet=not cfg.progress)
    if cfg.run is not None:
        cfg = of_run(cfg)
    target = checked_target(cfg)
    if chosen_weights(cfg) == HUB:
        progress.say(f"     weights  {cfg.backbone.name} from the hub, once")
    with progress.stage("data"):
        whole = open_job(cfg)
        job = replace(whole, data=only(whole.data, audited_rows(whole.data, cfg.noise)))
        verdicts = given(cfg.verdicts)
    with job.run.alone(), limited(cfg.trainer.threads):
        found = ranking_of(job, verdicts, progress)
        with progress.stage("pictures"):
            html = html_of(job, found)
        write(job, found, html)
    if target is not None:
        write_cleaned(target, whole.data, found)
    show(progress, job, found, target)
    return job.run


def checked_target(cfg: AuditConfig) -> Path | None:
    """The manifest to write.

    Raises:
        UserError: the file exists and is not a manifest, or is the one that is read.
    """
    if cfg.apply is None:
        return None
    target = Path(cfg.apply)
    if cfg.noise.manifest and target.resolve() == Path(cfg.noise.manifest).resolve():
        raise UserError(
            f"apply={target} would overwrite the manifest that is read: use another file"
        )
    if target.exists():
        try:
            read_manifest(target)
        except UserError as error:
            raise UserError(
                f"apply={target} would overwrite a file that is not a manifest: {error}"
            ) from None
    return target


def ranking_of(job: Job, verdicts: Verdicts, progress: Progress) -> Audited:
    """Features, ranking and evidence.

    Raises:
        UserError: too few images, or a ``count`` that leaves none.
    """
    cfg = audit_config(job)
    enough(job.data)
    prepared = prepare(job, progress)
    data, images = prepared.data, prepared.images
    enough(data)
    trust = images.trust
    assert trust is not None  # AuditConfig.check
    ranking = rank(trust.suspicion, trust.contamination, cfg.count)
    rows = list(images.rows)
    places = first_of_parts(ranking.order, images.groups)
    judged = [p for p in places if images.reviewed[ranking.order[p]] != Reviewed.NO]
    open_ones = [p for p in places if p not in set(judged)]
    # What is still to be judged comes first.
    shown, evidence = [*open_ones[: cfg.shown], *(judged if cfg.shown else [])], None
    if shown:
        chosen = [ranking.order[place] for place in shown]
        trusted = believed(~ranking.suspects(), images.reviewed)
        evidence = find_evidence(images.samples, images.groups, trusted, chosen, cfg.seed)
    lines = list_lines(data, rows, ranking, images.injected)
    found, grid = accuracy(ranking, images.injected), prepared.head.spec.grid
    next_ones = advice(trust.suspicion, images.reviewed)
    return Audited(data, rows, ranking, lines, found, shown, evidence, grid, verdicts, next_ones)


def enough(data: Dataset) -> None:
    """Raise ``UserError`` at too few images to compare with each other."""
    count = len(data.rows(*Roles.TRAINED))
    if count < FEWEST:
        raise UserError(
            f"{data.table.root}: {count} images to rank; give {FEWEST} or more, as "
            "each is compared with the others"
        )


def audit_config(job: Job) -> AuditConfig:
    assert isinstance(job.cfg, AuditConfig)
    return job.cfg


def list_lines(
    data: Dataset, rows: list[int], ranking: Ranking, injected: Tensor
) -> list[RankedImage]:
    """The ranking with names."""
    found = []
    for place, i in enumerate(ranking.order):
        sample, sha256 = data.table.samples[rows[i]], data.hashes[rows[i]]
        share, verdict = float(ranking.suspicion[i]), ranking.verdict(place)
        names = (sample.path, sha256, share, verdict, sample.group)
        found.append(RankedImage(place + 1, *names, bool(injected[i])))
    return found


def html_of(job: Job, found: Audited) -> str:
    cfg, table = audit_config(job), found.data.table
    cards, missing = [], list[str]()
    if e := found.evidence:
        samples = [table.samples[row] for row in found.rows]
        lines = dict(zip(found.ranking.order, found.lines, strict=True))
        images = [found.ranking.order[place] for place in found.shown]
        with missed("pictures of the suspects", missing):
            cards = make_cards(table, samples, lines, images, e, found.grid, cfg.data)
    return page(
        f"{table.name}/{table.category}",
        found.ranking,
        found.lines,
        cards,
        found.accuracy,
        found.verdicts.values(),
        backbone=job.backbone.description,
        untrained=chosen_weights(cfg) == UNTRAINED,
        ranked_by=f"method={cfg.method.name}",
        asked_count=cfg.count is not None,
        notes=(*table.notes, *missing),
        cleaned=cfg.apply,
        apply_command=apply_command(cfg),
        train_command=train_command(cfg, Path(cfg.apply or "cleaned.csv")),
        review_command=apply_command(cfg, cfg.verdicts or "verdicts.csv"),
    )


def write(job: Job, found: Audited, html: str) -> None:
    """The files of an audit, each whole or not at all; equal inputs give equal bytes."""
    run = job.run
    header = ("rank", "path", "suspicion", "verdict", "judged", "role", "group")
    roles = dict(zip((s.path for s in found.data.table.samples), found.data.roles, strict=True))
    rows = []
    for n in found.lines:
        said = spoken(n.sha256, found.verdicts)
        rows.append((n.rank, n.path, repr(n.suspicion), n.verdict, said, roles[n.path], n.group))
    run.write_csv("suspects.csv", header, rows)
    run.write_text("index.html", html)
    run.write_text("audit.json", json.dumps(summary(job, found), indent=2, allow_nan=False) + "\n")


def summary(job: Job, found: Audited) -> dict[str, Any]:
    """The content of ``audit.json``."""
    facts = job.facts() | {"noise": found.data.contamination.as_dict()}
    return {
        **facts,
        "images": len(found.ranking),
        "contamination": asdict(found.ranking.estimate),
        "suspects": found.ranking.count,
        "accuracy": asdict(found.accuracy) if found.accuracy else None,
        "config": asdict(job.cfg),
        **environment(),
    }


def write_cleaned(target: Path, data: Dataset, found: Audited) -> None:
    """The manifest of a training without the suspects.

    Raises:
        UserError: nothing would be left to train on, or to test on.
    """
    lines = ((line.path, line.sha256, line.verdict) for line in found.lines)
    rows = range(len(data.roles))
    # These stay, as what a training must learn to reject.
    known = {data.table.samples[i].path for i in rows if data.verdict(i) == Verdict.MISLABELLED}
    wrong = {data.table.samples[i].path for i in data.wrongly_tested()}
    suspects = (left_out(lines, found.verdicts) - known) | wrong
    pairs = zip(found.data.table.samples, found.data.roles, strict=True)
    unreadable = frozenset(s.path for s, role in pairs if role == Roles.UNREADABLE)
    roles = cleaned_roles(data, suspects, unreadable)
    write_manifest(target, data.table, roles, data.hashes, data.reviews)


def show(progress: Progress, job: Job, found: Audited, target: Path | None) -> None:
    """The head of the ranking and how good it is, if anybody knows."""
    cfg, ranking = audit_config(job), found.ranking
    table = Table(title=f"the most suspicious of {len(ranking)} images", title_justify="left")
    judged = ("judged",) if found.verdicts else ()
    for name in ("rank", "suspicion", "verdict", *judged, "image"):
        table.add_column(name, justify="right" if name in ("rank", "suspicion") else "left")
    for line in found.lines[:PRINTED]:
        truth = " (injected)" if line.injected else ""
        share = f"{100 * line.suspicion:.1f} %"
        one = [spoken(line.sha256, found.verdicts)] if judged else []
        table.add_row(str(line.rank), share, line.verdict, *one, printed(line.path) + truth)
    progress.console.print(table, markup=False)
    e = ranking.estimate
    progress.say(
        f"   estimated  {100 * e.value:.1f} % [{100 * e.low:.1f}, {100 * e.high:.1f}] of "
        f"{len(ranking)} images look mislabelled"
    )
    why = "as requested" if cfg.count is not None else "as estimated; count=K sets another cut"
    progress.say(f"    suspects  {ranking.count} images, {why}")
    if said := Counter(review.verdict for review in found.verdicts.values()):
        counts = ", ".join(f"{said[verdict]} {verdict}" for verdict in Verdict)
        progress.say(f"    verdicts  {counts}, by {cfg.verdicts}")
    if found.advice:
        progress.say(f"              {found.advice}")
    if a := found.accuracy:
        at = ", ".join(
            f"{100 * value:.1f} % at {k}{' (the true number)' if k == a.true else ''}"
            for k, value in a.precision.items()
        )
        progress.say(f"   precision  {at}")
        progress.say(f"       AUROC  {100 * a.auroc:.1f} %")
        progress.say(f"    detected  {a.found} of {a.true} injected images are among the suspects")
    progress.say(f"       files  {job.run.path / 'suspects.csv'}")
    progress.say(f"        page  {job.run.path / 'index.html'}")
    if target is None:
        progress.say(f"     leave them out  {apply_command(cfg)}")
    else:
        progress.say(f"    manifest  {target}, without the suspects")
        progress.say(f"  train then  {train_command(cfg, target)}")


def apply_command(cfg: AuditConfig, verdicts: str | None = None) -> str:
    """This audit again, writing the cleaned manifest; with a person's ``verdicts``, if given."""
    kept = [o for o in cfg.asked if key_of(o) not in ("apply", "verdicts" if verdicts else "")]
    said = [f"verdicts={verdicts}"] if verdicts else []
    command = ["python", "-m", "rad_lightning", "audit", *kept, *said, "apply=cleaned.csv"]
    return shlex.join(command)


def train_command(cfg: AuditConfig, manifest: Path) -> str:
    """A training without the suspects, in words where the run's own command is not known."""
    noise = ["noise=manifest", f"noise.manifest={manifest}"]
    if cfg.run is not None:
        return f"the run's own command with {shlex.join(noise)} in place of its noise settings"
    kept = [o for o in cfg.asked if key_of(o).split(".")[0] in OF_TRAINING]
    return shlex.join(["python", "-m", "rad_lightning", *kept, *noise])

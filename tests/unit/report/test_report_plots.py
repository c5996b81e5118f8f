from matplotlib.figure import Figure

from rad_lightning.report.collect import Series
from rad_lightning.report.grids import Cell, Grid, Row
from rad_lightning.report.plots import Style, draw, styles, svgs, swatch
from rad_lightning.report.statistics import Estimate


def grid(cells: list[Cell], name: str = "g") -> Grid:
    ratios = tuple(i / 10 for i in range(len(cells)))
    return Grid(name, "title", ratios, (Row("plain", tuple(cells), 0),))


def between(low: float, high: float) -> Cell:
    return Cell(Estimate((low + high) / 2, low, high, 3, 3))


def test_a_band_stops_where_a_point_has_no_interval() -> None:
    single = Cell(Estimate(0.5, None, None, 1, 1))
    axes = Figure().subplots()
    sides = [between(0.4, 0.6)] * 2
    draw(axes, grid([*sides, single, *sides]), [Style(0, 0)], "AUROC")
    spans = [
        (path.vertices[:, 0].min(), path.vertices[:, 0].max())
        for path in axes.collections[0].get_paths()
    ]
    assert spans == [(0.0, 0.1), (0.3, 0.4)]


def test_a_mean_that_lacks_categories_is_hollow() -> None:
    axes = Figure().subplots()
    lacks = Cell(Estimate(0.5, 0.4, 0.6, 3, 3), missing=("gear",))
    draw(axes, grid([between(0.4, 0.6), lacks]), [Style(0, 0)], "AUROC")
    faces = [line.get_markerfacecolor() for line in axes.lines if len(line.get_xdata()) == 1]
    assert faces[0] != "none" and faces[1] == "none"


def test_nothing_to_draw_is_no_error() -> None:
    assert draw(Figure().subplots(), grid([Cell()]), [Style(0, 0)], "AUROC")[0].get_label()


def test_panels_of_a_page_share_one_scale() -> None:
    low, high = grid([between(0.1, 0.2)] * 2, "low"), grid([between(0.8, 0.9)] * 2, "high")
    drawn = svgs([low, high], [Style(0, 0)], "AUROC", large=False)
    assert all(">20<" in d and ">80<" in d for d in drawn)


def test_a_method_keeps_its_colour_and_its_variants_differ_in_dash() -> None:
    series = [Series(m, h, m, {}, ()) for m in ("plain", "rad") for h in ("patch", "pooled")]
    assert styles(series) == [Style(0, 0), Style(0, 1), Style(1, 0), Style(1, 1)]
    assert len({swatch(style) for style in [*styles(series), None]}) == 5


def test_more_series_than_colours_are_still_drawn() -> None:
    for number in range(30):
        assert "var(--c" in swatch(Style(number, number))

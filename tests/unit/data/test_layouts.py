import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from rad_lightning.common.errors import UserError
from rad_lightning.data.layouts import LAYOUTS, read_layout
from rad_lightning.data.layouts.btad import read_btad
from rad_lightning.data.layouts.folder import read_folder
from rad_lightning.data.layouts.kolektor import read_ksdd, read_ksdd2
from rad_lightning.data.layouts.mtd import derive_tiles, read_mtd, read_tiles
from rad_lightning.data.layouts.mvtec import MVTEC_CATEGORIES, read_mvtec
from rad_lightning.data.layouts.table_csv import read_csv
from rad_lightning.data.layouts.visa import read_visa
from rad_lightning.data.samples import SampleTable
from rad_lightning.data.splits import Roles, split_table

Write = Callable[..., Path]
Shared = Callable[[str], Path]


def rows(table: SampleTable) -> list[tuple[str, int, str, str]]:
    return [(s.path, s.label, s.defect_type, s.split) for s in table.samples]


def check_contract(table: SampleTable) -> None:
    assert list(table.samples) == sorted(table.samples, key=lambda s: s.path)
    for sample in table.samples:
        assert table.absolute(sample).is_file()
        assert sample.mask_path is None or (table.root / sample.mask_path).is_file()
        assert sample.label == 1 or sample.mask_path is None
        assert sample.category == table.category and sample.group


def test_registry_names_what_it_accepts(tmp_path: Path) -> None:
    assert set(LAYOUTS) == {"mvtec", "visa", "btad", "ksdd2", "ksdd", "mtd", "folder", "csv"}
    with pytest.raises(UserError, match=r"layout 'coco' is not known: choose one of btad, csv"):
        read_layout("coco", tmp_path)
    with pytest.raises(
        UserError, match=r"no option 'normal': choose one of normal_dir, abnormal_dir"
    ):
        read_layout("folder", tmp_path, normal="good")


@pytest.mark.parametrize("layout", ["mvtec", "visa", "btad", "ksdd2", "ksdd", "mtd", "folder"])
def test_missing_and_empty_roots_say_what_was_expected(tmp_path: Path, layout: str) -> None:
    with pytest.raises(UserError, match=r"nowhere does not exist; expected .*<root>"):
        read_layout(layout, tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"is a file, not a folder; expected .*<root>"):
        read_layout(layout, tmp_path / "file")
    empty = tmp_path / "empty"
    for folder in ("train", "test"):
        (empty / folder).mkdir(parents=True)
    with pytest.raises(UserError, match=r"no (image|category) found in .*; expected .*<root>"):
        read_layout(layout, empty)


@pytest.mark.parametrize("layout", ["ksdd2", "ksdd", "mtd"])
def test_datasets_of_one_category_refuse_another(tmp_path: Path, layout: str) -> None:
    with pytest.raises(UserError, match=f"'bottle' does not exist here: use {layout}$"):
        read_layout(layout, tmp_path, "bottle")


# ---- mvtec


@pytest.fixture
def mvtec(tmp_path: Path, write_image: Write) -> Path:
    root = tmp_path / "data"
    for path in ("train/good/000.png", "train/good/001.JPG", "test/good/000.png"):
        write_image(root / "bottle" / path)
    for path in ("test/crack/000.png", "test/crack/001.png", "train/good/.hidden.png"):
        write_image(root / "bottle" / path)
    (root / "bottle" / "train/good/notes.txt").touch()
    write_image(root / "bottle/ground_truth/crack/000_mask.png", mask=True, marked=True)
    write_image(root / "widget/train/good/000.png")
    return root


def test_mvtec(mvtec: Path) -> None:
    table = read_mvtec(mvtec, "bottle")
    check_contract(table)
    assert rows(table) == [
        ("bottle/test/crack/000.png", 1, "crack", "test"),
        ("bottle/test/crack/001.png", 1, "crack", "test"),
        ("bottle/test/good/000.png", 0, "good", "test"),
        ("bottle/train/good/000.png", 0, "good", "train"),
        ("bottle/train/good/001.JPG", 0, "good", "train"),
    ]
    assert table.samples[0].mask_path == "bottle/ground_truth/crack/000_mask.png"
    assert table.notes == ("1 anomalous images have no mask file",)
    assert len({s.group for s in table.samples}) == len(table)
    assert len(MVTEC_CATEGORIES) == 15


def test_mvtec_categories(mvtec: Path) -> None:
    assert read_mvtec(mvtec / "bottle").samples == read_mvtec(mvtec, "bottle").samples
    assert read_mvtec(mvtec / "bottle", "bottle").root == mvtec.resolve()
    assert read_mvtec(mvtec, "widget").category == "widget"
    with pytest.raises(UserError, match=r"'botle' not found in .*: choose one of bottle, widget$"):
        read_mvtec(mvtec, "botle")
    with pytest.raises(UserError, match=r"no category given in .*: choose one of bottle, widget$"):
        read_mvtec(mvtec)


# ---- BTAD


def test_btad(tmp_path: Path, write_image: Write) -> None:
    for path in ("train/ok/0000.bmp", "test/ok/0001.bmp", "test/ko/0002.bmp", "test/ko/0003.bmp"):
        write_image(tmp_path / "01" / path)
    write_image(tmp_path / "01/ground_truth/ko/0002.png", mask=True, marked=True)
    write_image(tmp_path / "03/train/ok/0000.bmp")
    table = read_btad(tmp_path, "01")
    check_contract(table)
    assert table.name == "btad"
    assert rows(table) == [
        ("01/test/ko/0002.bmp", 1, "ko", "test"),
        ("01/test/ko/0003.bmp", 1, "ko", "test"),
        ("01/test/ok/0001.bmp", 0, "good", "test"),
        ("01/train/ok/0000.bmp", 0, "good", "train"),
    ]
    assert [s.mask_path for s in table.samples[:2]] == ["01/ground_truth/ko/0002.png", None]
    assert read_btad(tmp_path / "01").samples == table.samples
    with pytest.raises(UserError, match=r"no category given in .*: choose one of 01, 03$"):
        read_btad(tmp_path)
    find = LAYOUTS["btad"].categories
    assert find is not None and find(tmp_path) == ["01", "03"]


# ---- VisA


@pytest.fixture
def visa(tmp_path: Path, write_image: Write) -> Path:
    lines = ["object,split,label,image,mask"]
    for split, number in (("train", 1), ("train", 2), ("test", 3)):
        path = f"candle/Data/Images/Normal/000{number}.JPG"
        write_image(tmp_path / path)
        lines.append(f"candle,{split},normal,{path},")
    for number in (1, 2):
        path = f"candle/Data/Images/Anomaly/00{number}.JPG"
        mask = f"candle/Data/Masks/Anomaly/00{number}.png"
        write_image(tmp_path / path)
        write_image(tmp_path / mask, mask=True, marked=True)
        lines.append(f"candle,test,anomaly,{path},{mask}")
    write_image(tmp_path / "pcb1/Data/Images/Normal/0000.JPG")
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv/1cls.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_visa(visa: Path) -> None:
    folder = "candle/Data/Images/Anomaly"
    (visa / "candle/image_anno.csv").write_text(
        f'image,label,mask\n{folder}/001.JPG,"wax missing, stain",\n{folder}/002.JPG,stain,\n'
    )
    table = read_visa(visa, "candle")
    check_contract(table)
    assert rows(table) == [
        ("candle/Data/Images/Anomaly/001.JPG", 1, "wax missing + stain", "test"),
        ("candle/Data/Images/Anomaly/002.JPG", 1, "stain", "test"),
        ("candle/Data/Images/Normal/0001.JPG", 0, "good", "train"),
        ("candle/Data/Images/Normal/0002.JPG", 0, "good", "train"),
        ("candle/Data/Images/Normal/0003.JPG", 0, "good", "test"),
    ]
    assert table.samples[1].mask_path == "candle/Data/Masks/Anomaly/002.png"
    assert table.notes == ()
    find = LAYOUTS["visa"].categories
    assert find is not None and find(visa) == ["candle", "pcb1"]


def test_visa_without_its_tables_has_no_split_and_one_kind_of_defect(visa: Path) -> None:
    (visa / "split_csv/1cls.csv").unlink()
    table = read_visa(visa, "candle")
    check_contract(table)
    assert {(s.split, s.defect_type) for s in table.samples} == {("", "good"), ("", "defect")}
    assert table.notes == ("no split_csv/1cls.csv: the images have no published split",)


def test_visa_needs_a_table_that_knows_every_image(visa: Path) -> None:
    with pytest.raises(UserError, match=r"1cls\.csv has no row .* for pcb1/Data/.*/0000\.JPG$"):
        read_visa(visa, "pcb1")
    (visa / "split_csv/1cls.csv").write_text("object,image\n")
    with pytest.raises(UserError, match=r"expected the columns image,split, found object,image$"):
        read_visa(visa, "candle")
    (visa / "split_csv/1cls.csv").write_bytes(b"image,split\n\xff\xfe,train\n")
    with pytest.raises(UserError, match=r"1cls\.csv: not a CSV file in UTF-8"):
        read_visa(visa, "candle")


# ---- KolektorSDD


def test_ksdd2(tmp_path: Path, write_image: Write) -> None:
    for split, number, marked in (("train", 1, False), ("train", 2, True), ("test", 3, True)):
        write_image(tmp_path / split / f"{10000 + number}.png")
        write_image(tmp_path / split / f"{10000 + number}_GT.png", mask=True, marked=marked)
    table = read_ksdd2(tmp_path)
    check_contract(table)
    assert rows(table) == [
        ("test/10003.png", 1, "defect", "test"),
        ("train/10001.png", 0, "good", "train"),
        ("train/10002.png", 1, "defect", "train"),
    ]
    assert [s.mask_path for s in table.samples] == ["test/10003_GT.png", None, "train/10002_GT.png"]
    write_image(tmp_path / "test" / "10004.png")
    with pytest.raises(UserError, match=r"10004\.png has no mask 10004_GT\.png beside it"):
        read_ksdd2(tmp_path)


def test_ksdd_merges_commutators_that_are_copies(tmp_path: Path, write_image: Write) -> None:
    for part in ("kos01", "kos02", "kos26"):
        for number in range(2):
            write_image(tmp_path / part / f"Part{number}.jpg")
            write_image(tmp_path / part / f"Part{number}_label.bmp", mask=True, marked=number == 1)
    original = tmp_path / "kos01" / "Part0.jpg"
    (tmp_path / "kos26" / "Part0.jpg").write_bytes(original.read_bytes())
    table = read_ksdd(tmp_path)
    check_contract(table)
    assert Counter(s.group for s in table.samples) == {"kos01+kos26": 4, "kos02": 2}
    assert table.notes == ("kos01, kos26 share byte-identical images and are treated as one part",)
    assert {s.path: s.label for s in table.samples}["kos02/Part1.jpg"] == 1
    (tmp_path / "kos02" / "Part0_label.bmp").unlink()
    with pytest.raises(UserError, match=r"Part0\.jpg has no mask Part0_label\.bmp"):
        read_ksdd(tmp_path)


def test_ksdd_real(shared_data: Shared) -> None:
    table = read_ksdd(shared_data("kolektorsdd"))
    check_contract(table)
    assert Counter((s.group, s.label) for s in table.samples) == {
        ("kos01", 0): 7,
        ("kos01", 1): 1,
        ("kos02", 0): 7,
        ("kos02", 1): 1,
    }


# ---- magnetic tiles


def test_mtd_derives_tiles_from_the_names(tmp_path: Path, write_image: Write) -> None:
    names = ["MT_Free/Imgs/exp1_num_10", "MT_Crack/Imgs/exp2_num_20", "MT_Free/Imgs/exp1_num_100"]
    for name in names:
        write_image(tmp_path / f"{name}.jpg")
        write_image(tmp_path / f"{name}.png", mask=True, marked="Crack" in name)
    table = read_mtd(tmp_path)
    check_contract(table)
    assert [(s.path, s.label, s.defect_type, s.group) for s in table.samples] == [
        ("MT_Crack/Imgs/exp2_num_20.jpg", 1, "crack", "tile-0"),
        ("MT_Free/Imgs/exp1_num_10.jpg", 0, "good", "tile-0"),
        ("MT_Free/Imgs/exp1_num_100.jpg", 0, "good", "tile-1"),
    ]
    (tmp_path / "tiles.csv").write_text(f"path,tile\n{names[0]}.jpg,7\n{names[1]}.jpg,8\n")
    with pytest.raises(UserError, match=r"tiles\.csv has no row for MT_Free/Imgs/exp1_num_100"):
        read_mtd(tmp_path)
    (tmp_path / "tiles.csv").write_text("image,tile\n")
    with pytest.raises(UserError, match="expected the columns path,tile"):
        read_mtd(tmp_path)
    (tmp_path / "tiles.csv").unlink()
    (tmp_path / f"{names[1]}.png").unlink()
    assert read_mtd(tmp_path).notes == ("1 anomalous images have no mask file",)
    write_image(tmp_path / "MT_Free/Imgs/photo.jpg")
    with pytest.raises(UserError, match=r"photo\.jpg: cannot tell its tile"):
        read_mtd(tmp_path)


def test_mtd_derived_tiles_agree_with_the_listed_ones(shared_data: Shared) -> None:
    root = shared_data("magnetic_tile")
    listed = read_tiles(root / "tiles.csv")
    derived = derive_tiles(listed)
    pairs = {(listed[path], derived[path]) for path in listed}
    # every listed tile lies in one derived tile: deriving cannot leak
    assert len(pairs) == len(set(listed.values())) == 242
    # the development files are a part of the set, so 5 derived tiles hold 2 or 3 listed ones
    merged = Counter(tile for _, tile in pairs)
    assert len(merged) == 235 and sum(n > 1 for n in merged.values()) == 5


@pytest.mark.parametrize("seed", range(4))
def test_mtd_real_keeps_every_tile_on_one_side(shared_data: Shared, seed: int) -> None:
    table = read_mtd(shared_data("magnetic_tile"))
    check_contract(table)
    kinds = Counter(s.defect_type for s in table.samples)
    assert kinds == {
        "good": 474, "blowhole": 115, "break": 85, "crack": 57, "fray": 32, "uneven": 103,
    }  # fmt: skip
    assert table.notes == ()
    roles = split_table(table, scheme="group", seed=seed, pool_fraction=0.5)
    tested = {s.group for s, r in zip(table.samples, roles, strict=True) if r == Roles.TEST}
    others = {s.group for s, r in zip(table.samples, roles, strict=True) if r != Roles.TEST}
    assert tested and others and not tested & others


# ---- a user's folder


def test_folder_finds_the_usual_names(tmp_path: Path, write_image: Write) -> None:
    for path in ("OK/a.png", "OK/deep/b.png", "Defect/c.png", "Defect/scratch/d.png"):
        write_image(tmp_path / path)
    write_image(tmp_path / "OK/.cache/x.png")
    write_image(tmp_path / "masks/Defect/scratch/d_mask.png", mask=True, marked=True)
    table = read_folder(tmp_path)
    check_contract(table)
    assert rows(table) == [
        ("Defect/c.png", 1, "defect", ""),
        ("Defect/scratch/d.png", 1, "scratch", ""),
        ("OK/a.png", 0, "good", ""),
        ("OK/deep/b.png", 0, "good", ""),
    ]
    assert table.category == tmp_path.name
    assert table.samples[1].mask_path == "masks/Defect/scratch/d_mask.png"
    assert table.notes == ("1 anomalous images have no mask file",)


def test_folder_without_sides_is_unlabelled(tmp_path: Path, write_image: Write) -> None:
    for path in ("a.png", "deep/er/b.jpg", ".git/c.png", "deep/.d.png"):
        write_image(tmp_path / path)
    table = read_folder(tmp_path, "parts")
    assert rows(table) == [
        ("a.png", -1, "unlabelled", ""),
        ("deep/er/b.jpg", -1, "unlabelled", ""),
    ]
    assert table.category == "parts"


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path, write_image: Write) -> None:
    write_image(tmp_path / "good/a.png")
    try:
        write_image(tmp_path / os.fsdecode(b"good/\xff.png"))
    except OSError:
        pytest.skip("a file system of UTF-8 alone")
    with pytest.raises(UserError, match=r"good/\\udcff.png: the name is not UTF-8; rename it"):
        read_layout("folder", tmp_path)


def test_folder_with_its_own_split_and_names(tmp_path: Path, write_image: Write) -> None:
    for path in ("train/gut/a.png", "test/gut/b.png", "test/kaputt/c.png"):
        write_image(tmp_path / path)
    table = read_folder(tmp_path, normal_dir="gut", abnormal_dir="kaputt")
    assert rows(table) == [
        ("test/gut/b.png", 0, "good", "test"),
        ("test/kaputt/c.png", 1, "defect", "test"),
        ("train/gut/a.png", 0, "good", "train"),
    ]


@pytest.mark.parametrize(
    ("paths", "options", "message"),
    [
        (["good/a.png", "ok/b.png"], {}, r"more than one candidate for normal_dir \(good, ok\)"),
        (["good/a.png", "crack/b.png"], {}, "crack is neither the normal nor the abnormal folder"),
        (["good/a.png", "b.png"], {}, r"b\.png is in neither folder"),
        (["good/a.png"], {"abnormal_dir": "nok"}, "abnormal_dir=nok is not a folder in"),
        (["good/a.png"], {"normal_dir": "../good"}, r"normal_dir=\.\./good is not valid"),
        (["a/a.png"], {"normal_dir": "a", "abnormal_dir": "a"}, "are both a; give two folders"),
        (
            ["good/a.png", "bad/x/1.png", "bad/y/1.png", "masks/1.png"],
            {},
            r"masks/1\.png fits 2 images",
        ),
    ],
)
def test_folder_refuses_to_guess(
    tmp_path: Path, write_image: Write, paths: list[str], options: dict[str, str], message: str
) -> None:
    for path in paths:
        write_image(tmp_path / path)
    with pytest.raises(UserError, match=message) as caught:
        read_folder(tmp_path, **options)
    assert "\n" not in str(caught.value)


# ---- CSV


def test_csv(tmp_path: Path, write_image: Write) -> None:
    for name in ("a", "b", "c"):
        write_image(tmp_path / f"{name}.png")
    write_image(tmp_path / "m.png", mask=True, marked=True)
    file = tmp_path / "parts.csv"
    file.write_text(
        "\ufeffpath,label,split,defect_type,group,mask_path\n"
        "c.png,,train,,,\nb.png,Anomalous,test,scratch,p1,m.png\na.png,0,train,,p1,\n",
        encoding="utf-8",
    )
    table = read_csv(csv=file)
    check_contract(table)
    assert rows(table) == [
        ("a.png", 0, "good", "train"),
        ("b.png", 1, "scratch", "test"),
        ("c.png", -1, "unlabelled", "train"),
    ]
    assert [s.group for s in table.samples] == ["p1", "p1", "c.png"]
    assert table.category == "parts"
    assert read_csv(tmp_path, csv=str(file)).samples == table.samples


def test_csv_category_is_a_filter(tmp_path: Path, write_image: Write) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.png")
    file = tmp_path / "t.csv"
    file.write_text("path,label,category\na.png,0,nut\nb.png,1,bolt\n")
    assert rows(read_csv(csv=file, category="nut")) == [("a.png", 0, "good", "")]
    with pytest.raises(UserError, match=r"'screw' does not exist here: use bolt or nut$"):
        read_csv(csv=file, category="screw")
    with pytest.raises(UserError, match=r"no category given for .*: choose one of bolt, nut$"):
        read_csv(csv=file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1: no column path"),
        ("path,label,spilt\n", ":1: unknown column 'spilt'; expected"),
        ("path,split\n", ":1: no column label; expected"),
        ("path,label\n", "no image found"),
        ("path,label\na.png,0\na.png,maybe\n", ":3: label 'maybe' is not known: use 0 or"),
        ("path,label,split\na.png,0,val\n", ":2: split 'val' is not known: use train or test"),
        ("path,label\nb.png,0\n", r":2: no such file .*b\.png"),
        ("path,label,mask_path\na.png,1,m.png\n", r":2: no such file .*m\.png"),
        ("path,label\na.png,0\na.png,0\n", r":3: a\.png is listed twice"),
        ("path,label\na.png,0,1\n", ":2: expected 2 values"),
        ("path,label,defect_type\na.png,0,crack\n", ":2: label '0' and defect_type 'crack'"),
        ("path,label\n../out.png,0\n", ":2: .* is not below the root"),
        ('path,label\n"a.png,0\n', "not a CSV file in UTF-8"),
    ],
)
def test_csv_names_the_line(tmp_path: Path, write_image: Write, text: str, message: str) -> None:
    root = tmp_path / "data"
    write_image(root / "a.png")
    write_image(tmp_path / "out.png")
    file = root / "t.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_csv(csv=file)


def test_csv_must_be_given_and_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs the option csv=FILE"):
        read_csv(tmp_path)
    with pytest.raises(UserError, match=r"none\.csv is not a file; expected"):
        read_csv(csv=tmp_path / "none.csv")
    (tmp_path / "bin.csv").write_bytes(b"path,label\n\xff\xfe,0\n")
    with pytest.raises(UserError, match="not a CSV file in UTF-8"):
        read_csv(csv=tmp_path / "bin.csv")

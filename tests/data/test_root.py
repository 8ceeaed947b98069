"""Nothing of a data set lies outside its root, and nothing but files is opened."""

import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from vl_ltr_jax.config import build as configs
from vl_ltr_jax.data import root as roots
from vl_ltr_jax.data.images.decode import ImageReadError
from vl_ltr_jax.data.root import FileError, Root
from vl_ltr_jax.data.sources import dataset, folders, inat18, lists
from vl_ltr_jax.data.text import corpus
from vl_ltr_jax.data.text.class_names import read_class_names
from vl_ltr_jax.run import inputs as run_inputs
from worlds import checked_world
from worlds import data_damage as damage

NONE = dataset.Texts(absent=True)
OUT = "leads out of .*data.follow_symlinks=True"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return damage.write_world(tmp_path_factory.mktemp("roots") / "world")


@pytest.fixture
def root(sound, tmp_path):
    """A copy with its traps; pipes and sockets cannot be copied, and are made anew."""
    ignore = shutil.ignore_patterns("pipe.jpg", "socket.jpg")
    copy = Path(
        shutil.copytree(sound, tmp_path / "world", symlinks=True, ignore=ignore)
    )
    os.mkfifo(copy / "images/pipe.jpg")
    return copy


@pytest.fixture
def opened(monkeypatch):
    """Real paths of what is opened."""
    names, plain = [], os.open
    monkeypatch.setattr(
        roots.os,
        "open",
        lambda path, *rest: names.append(os.path.realpath(path)) or plain(path, *rest),
    )
    return names


def read(root, **options):
    options = {"texts": "none"} | options
    return run_inputs.read_data(checked_world.config(root, **options))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("../../etc/passwd", "'../../etc/passwd' leaves the root"),
        ("images/../../x.jpg", "leaves the root"),
        ("..", "leaves the root"),
        ("/etc/passwd", "no image '/etc/passwd' under"),
        ("~/x.jpg", "no image '~/x.jpg'"),
        ("file:///etc/passwd", "no image 'file:///etc/passwd'"),
        ("images/out.jpg", f"'images/out.jpg' .*{OUT}"),
        ("images/outside/secret.jpg", f"{OUT}"),
        ("outside/secret.jpg", f"{OUT}"),
        ("images/up.jpg", "no image 'images/up.jpg'"),
        (
            "images/pipe.jpg",
            "no image 'images/pipe.jpg' .*; what lies there is no regular file",
        ),
        (
            "images/zero.jpg",
            "no image 'images/zero.jpg' .*; what lies there is no regular file",
        ),
        ("images/loop.jpg", "no image 'images/loop.jpg'"),
        ("images", "no image 'images'"),
        ("a/" * 50_000 + "x.jpg", "no image 'a/a/.*x.jpg'"),
    ],
)
def test_paths_of_lists_and_json_stay_in_the_root(root, opened, path, message):
    """Broken by: a path that is joined to the root and opened."""
    checked_world.set_row(root, f"{path} 1", 5)
    with damage.no_hang(), pytest.raises(dataset.ListError, match=message) as raised:
        lists.read_image_list(root, "world", texts=NONE)
    assert "world_train.txt:5" in str(raised.value)
    content = json.loads((root / "train2018.json").read_text())
    content["images"][4]["file_name"] = path
    (root / "train2018.json").write_text(json.dumps(content))
    with damage.no_hang(), pytest.raises(dataset.ListError, match=message) as raised:
        inat18.read_inat18(root, texts=NONE)
    assert "image id 104" in str(raised.value)
    home = f"{os.path.realpath(root)}/"
    assert opened and all(name.startswith(home) for name in opened)


@pytest.mark.parametrize("path", ["images/out.jpg", "outside/secret.jpg"])
def test_a_check_calls_a_link_out_by_its_name(root, path):
    checked_world.set_row(root, f"{path} 1")
    found = {finding.code: finding for finding in checked_world.look(root).findings}
    assert path in str(found["path-outside"].offenders[0])
    assert "data.follow_symlinks" in found["path-outside"].mend


def test_links_that_stay_inside_are_followed(root):
    (root / "images/acorn/link.jpg").symlink_to("../tench/train_0.jpg")
    (root / "mirror").symlink_to("images")
    checked_world.set_row(root, "images/acorn/link.jpg 1", 4)
    checked_world.set_row(root, "/mirror/violin/train_1.jpg 2", 8)
    data = read(root)
    same = (data.train.read(3), data.train.read(0))
    assert same[0].tobytes() == same[1].tobytes()
    assert data.train.read(7).size == (20, 16)


def test_a_root_may_itself_be_a_link(root, tmp_path):
    (tmp_path / "elsewhere").symlink_to(root)
    assert read(tmp_path / "elsewhere").train.read(0).size == (20, 16)


def test_links_out_are_followed_where_their_owner_says_so(root, tmp_path):
    """As where `images` lies on another disk."""
    disk = tmp_path / "disk"
    (root / "images").rename(disk)
    (root / "images").symlink_to(disk)
    (root / "wiki").rename(tmp_path / "texts")
    (root / "wiki").symlink_to(tmp_path / "texts")
    with pytest.raises(dataset.ListError, match=r"train.txt:1 and 35 more: .*" + OUT):
        read(root)
    given = checked_world.config(root, follow_symlinks=True)
    data = run_inputs.read_data(given)
    assert data.train.read(0).size == (20, 16)
    assert data.class_texts[0].startswith("A tench")
    assert checked_world.look(root, follow_symlinks=True).findings == []


@pytest.mark.parametrize("name", ["world_train.txt", "labels.txt", "wiki/desc_3.txt"])
def test_files_that_are_links_out_are_refused(root, tmp_path, name):
    """Broken by: a label file or a text that is read wherever it leads."""
    (root / name).rename(tmp_path / "moved")
    (root / name).symlink_to(tmp_path / "moved")
    with pytest.raises(FileError, match=f"{name} cannot be read: it {OUT}"):
        read(root, texts="wiki")
    assert len(read(root, texts="wiki", follow_symlinks=True).train) == 36


def test_archives_that_are_links_out_are_refused(root, tmp_path):
    shutil.rmtree(root / "wiki")
    with zipfile.ZipFile(tmp_path / "texts.zip", "w") as archive:
        for label in range(12):
            archive.writestr(f"desc_{label}.txt", "A text.")
    (root / "wiki.zip").symlink_to(tmp_path / "texts.zip")
    with pytest.raises(FileError, match=f"wiki.zip .*{OUT}"):
        corpus.read_texts(root, 12)
    assert corpus.read_texts(Root(root, True), 12)[11] == "A text."


def test_what_is_exchanged_while_a_run_reads_is_not_followed(root, tmp_path):
    """Broken by: images that are opened by their path, as they were when it began."""
    data = read(root)
    first, second = (root / f"images/tench/train_{k}.jpg" for k in range(2))
    first.unlink()
    first.symlink_to((root / "images/out.jpg").readlink())
    with pytest.raises(
        ImageReadError, match=r"train_0.jpg \(.*train.txt:1\): .*" + OUT
    ):
        data.train.read(0)
    second.unlink()
    os.mkfifo(second)
    with damage.no_hang(), pytest.raises(ImageReadError, match="no regular file but a"):
        data.train.read(1)
    second.unlink()
    second.symlink_to("train_2.jpg")
    assert data.train.read(1).size == (20, 16)


def test_what_is_exchanged_between_a_look_and_opening_is_not_followed(
    root, monkeypatch
):
    first, stat = root / "images/tench/train_0.jpg", os.stat
    target, moved = (root / "images/out.jpg").readlink(), []

    def looked(path, **options):
        status = stat(path, **options)
        if os.fspath(path) == str(first) and not moved:
            moved.append(path)
            first.unlink()
            first.symlink_to(target)
        return status

    data = read(root)
    monkeypatch.setattr(roots.os, "stat", looked)
    with pytest.raises(ImageReadError, match=OUT):
        data.train.read(0)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        *(("labels.txt", "image_list"), ("world_val.txt", "image_list")),
        *(("train2018.json", "inat18"), ("categories.json", "inat18")),
        *(("test2018.json", "inat18"), ("wiki/desc_0.txt", "image_list")),
    ],
)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_pipes_and_devices_in_place_of_files_are_not_opened(root, name, source, kind):
    """Broken by: `read_bytes`, which waits for a pipe and reads zeros for ever."""
    (root / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(root / name)
    elif kind == "folder":
        (root / name).mkdir()
    else:
        (root / name).symlink_to("/dev/zero")
    layout = "inat18" if source == "inat18" else "plain"
    given = checked_world.config(root, source=source, layout=layout)
    with damage.no_hang(), pytest.raises(ValueError, match=Path(name).name) as raised:
        run_inputs.read_data(given)
    assert type(raised.value).__module__.startswith("vl_ltr_jax")
    with damage.no_hang():
        found = checked_world.look(root, source=source, layout=layout)
    assert not found.sound


def test_folders_that_lead_out_or_round_are_not_walked(root, tmp_path):
    """Broken by: `os.walk`, which goes on to 2 ** 40 folders of two links."""
    for split in ("train", "val"):
        for name in ("a", "b"):
            (root / split / "acorn" / name).symlink_to(".")
    with damage.no_hang():
        data = folders.read_image_folder(root, "x", texts=NONE)
    assert data.train_counts.tolist() == [6] * 12  # as many as files
    (root / "train/acorn/a").unlink()
    (root / "train/acorn/a").symlink_to((root / "outside").readlink())
    with pytest.raises(
        dataset.ListError, match=f"train/acorn/a cannot be read: it {OUT}"
    ):
        folders.read_image_folder(root, "x", texts=NONE)
    trusted = folders.read_image_folder(Root(root, True), "x", texts=NONE)
    assert trusted.train_counts.sum() == 73


@pytest.mark.parametrize("name", [b"\xff", b"\xc3\x28", b"a\nb", b"a\rb", b"a\x1bb"])
def test_folders_with_names_that_no_file_can_hold_are_refused(tmp_path, name):
    """Broken by: half characters that end a run when it writes its report."""
    for split in ("train", "val"):
        for folder in (b"cat", name):
            os.makedirs(os.path.join(os.fsencode(tmp_path), split.encode(), folder))
            picture = tmp_path / split / os.fsdecode(folder) / "0.png"
            checked_world.Image.new("RGB", (5, 4)).save(picture)
    with pytest.raises(ValueError, match=f"{tmp_path}.*U\\+[0-9A-F]{{4}}, which is no"):
        folders.read_image_folder(tmp_path, "x", texts=NONE)
    names = tmp_path / "labels.txt"
    names.write_bytes(b"cat 0\n" + name.replace(b"\n", b"\x0b") + b" 1\n")
    with pytest.raises(ValueError, match=r"labels.txt"):
        folders.read_image_folder(tmp_path, "x", texts=NONE)


def test_pictures_with_names_that_are_not_utf8_are_refused(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
        name = os.fsdecode(b"caf\xe9.png") if split == "val" else "0.png"
        checked_world.Image.new("RGB", (5, 4)).save(tmp_path / split / "cat" / name)
    with pytest.raises(
        dataset.ListError, match=r"caf\\udce9.png' is not UTF-8.*rename"
    ):
        folders.read_image_folder(tmp_path, "x", texts=NONE)
    assert "path-not-utf8" in {
        finding.code
        for finding in checked_world.look(
            tmp_path, source="image_folder", name="x"
        ).findings
    }


@pytest.mark.parametrize("name", ["a\\nb", "a\\rb", "a\\u0000b", "\\u2028", "", " \\t"])
def test_names_that_break_tables_are_refused(tmp_path, name):
    (tmp_path / "categories.json").write_text(f'[{{"id": 0, "name": "{name}"}}]')
    with pytest.raises(
        ValueError, match=r"categories.json: category 0 .* the class name"
    ):
        read_class_names(tmp_path, "inat18")


@pytest.mark.parametrize("kind", ["wiki.zip", "wiki.tar"])
def test_members_named_out_of_an_archive_are_no_way_out(tmp_path, kind):
    """Texts are read in place: whatever a member is called, nothing is written."""
    (tmp_path / "root").mkdir()
    names = ("../../desc_0.txt", "/tmp/desc_1.txt", "..\\..\\desc_2.txt")
    if kind == "wiki.zip":
        with zipfile.ZipFile(tmp_path / "root" / kind, "w") as archive:
            for name in names:
                archive.writestr(name, "A text.")
    else:
        (tmp_path / "text").write_text("A text.")
        with tarfile.open(tmp_path / "root" / kind, "w") as archive:
            for name in names:
                archive.add(tmp_path / "text", name)
        (tmp_path / "text").unlink()
    before = set(tmp_path.rglob("*"))
    assert corpus.read_texts(tmp_path / "root", 3) == ("A text.",) * 3
    assert set(tmp_path.rglob("*")) == before
    hard = tarfile.TarInfo("desc_0.txt")
    hard.type, hard.linkname = tarfile.LNKTYPE, "/etc/passwd"
    (tmp_path / "root" / kind).unlink()
    with tarfile.open(tmp_path / "root" / "wiki.tar", "w") as archive:
        archive.addfile(hard)
    with pytest.raises(ValueError, match="wiki.tar:desc_0.txt is no file but a link"):
        corpus.read_texts(tmp_path / "root", 1)


def test_links_have_no_meaning_without_files():
    config = configs.default_config()
    config.data.source, config.data.name, config.init.clip = "shapes", "x", "tiny_clip"
    config.data.follow_symlinks = True
    with pytest.raises(configs.ConfigError, match="data.follow_symlinks=True with"):
        configs.from_config_dict(config)

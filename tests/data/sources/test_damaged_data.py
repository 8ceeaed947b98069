"""Damaged data sets by the hundred: each is read, or refused in words that name it."""

import csv
import io
import os
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vl_ltr_jax.data.images.decode import ImageReadError
from vl_ltr_jax.data.sources import dataset, folders, inat18, lists, tfds_records
from vl_ltr_jax.data.text import class_names, corpus, files
from worlds import checked_world
from worlds import data_damage as damage
from worlds.file_damage import examples

NO_TEXTS = dataset.Texts(absent=True)
NUM_CLASSES = len(checked_world.NAMES)
LISTS = tuple(f"world_{split}.txt" for split in dataset.SPLITS)
WORDS = "".join(checked_world.PROSE.format(name) for name in checked_world.NAMES)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Each test leaves it as it was."""
    return damage.write_world(tmp_path_factory.mktemp("damaged") / "world")


def check(data, root):
    """A data set that was opened is one: nothing of it lies outside."""
    if data is None:
        return
    check_names(data.class_names)
    home = os.path.realpath(root) + "/"
    for split in (data.train, data.val, data.test):
        assert split.labels.dtype == np.int32
        assert 0 <= split.labels.min() and split.labels.max() < len(data.class_names)
        for index in range(len(split)):
            assert os.path.realpath(split.path(index)).startswith(home)
            split.describe(index).encode()
        for index in (0, len(split) - 1):
            try:
                assert split.read(index).mode == "RGB"
            except ImageReadError as error:
                assert split.describe(index) in str(error)


def check_names(names):
    """Names of classes make one row each of a CSV file, and prompts."""
    assert names
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([name] for name in names)
    text = file.getvalue().encode("utf-8").decode("utf-8")
    assert len(text.splitlines()) == len(names)
    assert [row[0] for row in csv.reader(io.StringIO(text, newline=""))] == list(names)
    assert all(map(str.strip, names))


def text_of(path):
    return path.read_text()


@examples(280)
@given(data=st.data(), name=st.sampled_from(LISTS))
def test_lists(root, data, name):
    content = data.draw(damage.damaged_text((root / name).read_text()))

    def load():
        return lists.read_image_list(root, "world", texts=NO_TEXTS)

    with damage.changed(root / name, content):
        check(damage.outcome(load, root / name, *(root / one for one in LISTS)), root)


@examples(200)
@given(
    data=st.data(),
    name=st.sampled_from(("train2018.json", "val2018.json", "categories.json")),
)
def test_json_of_inaturalist(root, data, name):
    content = data.draw(damage.damaged_json((root / name).read_text()))

    def load():
        return inat18.read_inat18(root, texts=NO_TEXTS)

    with damage.changed(root / name, content):
        check(damage.outcome(load, root), root)


LABEL_FILES = {
    "plain": "".join(f"{name} {k}\n" for k, name in enumerate(checked_world.NAMES)),
    "places_lt": "".join(f"/{n[0]}/{n} {k}\n" for k, n in enumerate("abcdefghijkl")),
    "imagenet_lt": "".join(f"n{k:08} {k} name_{k}\n" for k in range(12)),
}


@examples(200)
@given(data=st.data(), layout=st.sampled_from(sorted(LABEL_FILES)))
def test_label_files(root, data, layout):
    content = data.draw(damage.damaged_text(LABEL_FILES[layout]))
    with damage.changed(root / "labels.txt", content) as file:
        names = damage.outcome(lambda: class_names.read_class_names(root, layout), file)
        if names is not None:
            check_names(names)
        if layout == "imagenet_lt":
            damage.outcome(lambda: class_names.read_wnids(root), file)


def check_corpus(texts, names):
    if texts is None:
        return
    found = damage.outcome(lambda: corpus.build_corpus(names, texts, "plain"))
    assert len(found.sentences) == len(found.labels) >= 4 * len(names)
    "\0".join(found.sentences).encode()


@examples(160)
@given(
    data=st.data(),
    encoding=st.sampled_from(
        (*("auto", "auto", "auto", "utf-8", "utf-7", "utf_16_le", "gb18030", "hz"),)
        + ("cp1252", "iso2022_jp", "shift_jis", "idna", "punycode", "unicode_escape")
    ),
)
def test_texts(root, data, encoding):
    text = checked_world.text(root, 3)
    content = data.draw(damage.damaged_text(text.read_text()))

    def load():
        return corpus.read_texts(root, NUM_CLASSES, encoding)

    with damage.changed(text, content):
        names = (root, "the encoding of texts")
        check_corpus(damage.outcome(load, *names), checked_world.NAMES)


def archive_of(kind, members):
    file = io.BytesIO()
    if kind == "wiki.zip":
        warnings.simplefilter("ignore")  # of a name that is there already
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members:
                archive.writestr(name, content)
    else:
        mode = "w" if kind == "wiki.tar" else "w:gz"
        with tarfile.open(fileobj=file, mode=mode) as archive:
            for name, content in members:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


MEMBERS = st.one_of(
    st.sampled_from(("desc_0.txt", "w/desc_1.txt", "../../desc_2.txt", "/desc_1.txt")),
    st.sampled_from(("..\\desc_2.txt", "desc_-1.txt", "desc_\u0663.txt", "desc_3.txt")),
    st.sampled_from(("x" * 150, "\ud800", "a\nb", "desc_999999999.txt", "desc_01.txt")),
)


@examples(240)
@given(
    data=st.data(),
    kind=st.sampled_from(("wiki.zip", "wiki.tar", "wiki.tar.gz")),
    extra=st.lists(st.tuples(MEMBERS, st.just(b"Other. \xe9")), max_size=2),
)
def test_archives_of_texts(tmp_path_factory, data, kind, extra):
    home = tmp_path_factory.getbasetemp() / "archives"
    home.mkdir(exist_ok=True)
    members = [(f"w/desc_{k}.txt", f"Text {k}. {WORDS}".encode()) for k in range(3)]
    members = [
        *members,
        *((n.encode("utf-8", "replace").decode(), c) for n, c in extra),
    ]
    content = archive_of(kind, members)
    if data.draw(st.booleans()):
        content = data.draw(damage.damaged_bytes(content))
    file = home / kind
    file.write_bytes(content)
    try:
        texts = damage.outcome(lambda: corpus.read_texts(home, 3), file)
        check_corpus(texts, ("a", "b", "c"))
        assert [path.name for path in home.iterdir()] == [kind]
    finally:
        file.unlink()


NAMES = st.one_of(
    st.sampled_from(
        (b"cat", b"dog", b"black_cat", b"7", b"0007", b"\xff\xfe", b"a\nb")
    ),
    st.sampled_from((b"x.jpg", b"y.JPG", b"\r", b"\xe2\x80\xa8", b"~", b" ", b"_")),
    st.sampled_from((b"z" * 255, "\u0663".encode(), b".jpg", b"{}", b"\x7f", b"-1")),
)
KINDS = st.sampled_from(
    ("folder", "folder", "file", "pipe", "up", "loop", "out", "gone", "device")
)


def make(path, kind, outside):
    """Something by the name of a picture or of a class."""
    if os.path.lexists(path) or not path.parent.is_dir():
        return
    if kind == "folder":
        path.mkdir()
        (path / "fine.jpg").write_bytes(b"no picture")
    elif kind == "file":
        path.write_bytes(b"")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        targets = {"up": "..", "loop": ".", "gone": "nowhere", "device": "/dev/zero"}
        path.symlink_to(targets.get(kind, outside))


@examples(160)
@given(
    made=st.lists(
        st.tuples(
            st.sampled_from(("train", "val", "train/cat", "train/7", "")), NAMES, KINDS
        ),
        min_size=1,
        max_size=4,
    ),
    labels=st.sampled_from((None, b"cat 0\ndog 1\n", b"cat 0\n\xff 1\n")),
)
def test_folders(root, tmp_path_factory, made, labels):
    home = tmp_path_factory.mktemp("folders")
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            os.makedirs(home / split / name)
            picture = home / split / name / "0.jpg"
            picture.write_bytes((root / "images/acorn/train_0.jpg").read_bytes())
    if labels is not None:
        (home / "labels.txt").write_bytes(labels)
    for where, name, kind in made:
        make(home / where / os.fsdecode(name), kind, (root / "outside").readlink())
    load = lambda: folders.read_image_folder(home, "pets", texts=NO_TEXTS)  # noqa: E731
    check(damage.outcome(load, home), home)


@examples(40)
@given(
    name=st.sampled_from((*damage.TOKENS, "cifar100_lt/7", "a/b/c", "x:1", "x:1.0.0"))
)
def test_names_of_prepared_data_sets(tmp_path_factory, name):
    home = tmp_path_factory.getbasetemp()
    load = lambda: tfds_records.read_prepared(home, name)  # noqa: E731
    names = (home, "is not the name of a prepared", "the imbalance of cifar100_lt")
    assert damage.outcome(load, *names) is None


def test_an_encoding_is_a_codec_of_texts(root):
    for name in (*damage.TOKENS, "idna", "punycode", "Unicode_Escape", "zlib", "rot13"):
        load = lambda: files.check_encoding(name)  # noqa: B023, E731
        assert damage.outcome(load, "the encoding of texts") is None

"""A check finds nothing in a sound data set, and each fault of a damaged one."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tqdm import tqdm

from vl_ltr_jax.commands import check_data
from vl_ltr_jax.data.checks import inspection, prose, published
from vl_ltr_jax.data.checks.report import to_markdown
from vl_ltr_jax.data.sources import dataset, long_tail, rows
from vl_ltr_jax.data.sources.faults import MAX_OFFENDERS, Classes
from vl_ltr_jax.method.shots import shot_groups
from worlds import checked_world as world
from worlds.damages import ALSO, DAMAGES, INAT

NAMED = tuple(enumerate(world.NAMES))
SOURCES = {"image_list": world.write, "inat18": world.write_inat}
SOURCES["image_folder"] = world.write_folders


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A sound data set for each source; not to be changed."""
    root = tmp_path_factory.mktemp("sound")
    return {source: write(root / source) for source, write in SOURCES.items()}


@pytest.fixture
def root(sound, tmp_path):
    return Path(shutil.copytree(sound["image_list"], tmp_path / "world"))


@pytest.mark.parametrize("options", [{}, INAT, {"source": "image_folder"}], ids=str)
def test_a_sound_data_set_has_no_finding(sound, options):
    source = options.get("source", "image_list")
    checked = world.look(sound[source], **options)
    assert checked.findings == [] and checked.sound
    facts = "\n".join(checked.facts)
    tested = 12 if source == "inat18" else 24
    assert f"12 classes; images: 36 train, 12 val, {tested} test" in facts
    assert "texts: 12 (12 utf-8)" in facts
    assert "sentences: 84 with prompts" in facts  # 12 x (4 prompts + 3)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.code)
def test_each_damage_is_named_and_nothing_else(sound, tmp_path, damage):
    """Broken by: leaving a check out, or two findings for one cause."""
    source = damage.options.get("source", "image_list")
    root = Path(shutil.copytree(sound[source], tmp_path / "world"))
    damage.make(root)
    findings = world.look(root, **damage.options).findings
    by_code = {finding.code: finding for finding in findings}
    assert len(by_code) == len(findings)
    assert damage.code in by_code, by_code
    assert by_code.keys() <= {damage.code} | ALSO.get(damage.code, set())
    finding = by_code[damage.code]
    assert finding.severity == damage.severity
    report = to_markdown("", [], [finding])
    for word in damage.words:
        assert word in report


def test_faults_of_several_parts_are_all_found(root):
    """Broken by: stopping at the first part that cannot be opened."""
    (root / "world_val.txt").unlink()
    world.edit(root / "labels.txt", "anvil 11", "anvil 12")
    world.set_row(root, "images/acorn/train_1.jpg")
    world.image(root).write_bytes(b"")
    world.text(root, 4).write_text("")
    world.image(root, "castle/test_0.jpg").unlink()
    checked = world.look(root)
    assert {finding.code for finding in checked.findings} == {
        *("split-unreadable", "class-names", "list-row", "image-unreadable"),
        *("text-empty", "image-missing"),
    }
    assert [finding.severity for finding in checked.findings][-1] == "warning"
    assert not checked.sound


def test_texts_by_the_rows_of_imagenets_label_file(root):
    """Labels are ranks of wnids; the rows may have any order, and do in the devkit."""
    rows = [f"n{97 * label % 100:02} {label} {name}\n" for label, name in NAMED]
    (root / "labels.txt").write_text("".join(rows))
    rank = {row.split()[0]: label for label, row in enumerate(sorted(rows))}
    labels = [rank[row.split()[0]] for row in rows]
    for split in world.COUNTS:
        file = root / f"world_{split}.txt"
        lines = [line.split() for line in file.read_text().splitlines()]
        moved = [f"{path} {labels[int(label)]}\n" for path, label in lines]
        file.write_text("".join(moved))
    (finding,) = world.look(root, layout="imagenet_lt").findings
    assert finding.code == "text-order"
    assert "rows of labels.txt" in finding.what
    world.renumber(root, np.argsort(labels).tolist())
    assert world.look(root, layout="imagenet_lt").findings == []


def test_only_the_first_of_many_are_named(root):
    for path in (root / "images").rglob("train_*.jpg"):
        path.write_bytes(b"")
    (finding,) = world.look(root).findings
    assert finding.count == 36 and len(finding.offenders) == MAX_OFFENDERS
    assert "and 26 more" in to_markdown("", [], [finding])


def test_neither_texts_nor_images_need_be_read(root):
    shutil.rmtree(root / "wiki")
    world.image(root).write_bytes(b"")
    config = world.config(root, texts="none")
    checked = check_data.check_data(config, skip_images=True)
    assert checked.findings == [] and "texts: none" in checked.facts[-1]


@pytest.mark.parametrize("benchmark", published.BENCHMARKS[:3], ids=lambda b: b.title)
def test_group_sizes_are_of_the_standard_rule(benchmark):
    """Broken by: VL-LTR's own rule, where 100 is many and 20 is few."""
    many, medium, few = benchmark.groups
    assert many + medium + few == benchmark.num_classes
    largest, smallest = benchmark.extremes
    counts = np.repeat([101, 20, smallest], (many - 1, medium - 1, few - 1))
    counts = np.concatenate([counts, [largest, 100, 19]])  # where the rules differ
    counts[0] += benchmark.sizes["train"] - counts.sum()
    numbers = (benchmark.title, "plain", benchmark.num_classes, benchmark.sizes, counts)
    sizes = [members.sum() for members in shot_groups(counts, "standard").values()]
    assert sizes == [many, medium, few]
    (finding,) = published.findings(*numbers)
    assert len(finding.offenders) == 1 and not published.is_published(*numbers)


@pytest.mark.parametrize(
    ("imbalance", "total", "groups"),
    [(100, 10_847, (35, 35, 30)), (10, 19_573, (69, 31, 0))],
)
def test_cifar100_lt_is_known_by_its_name(imbalance, total, groups):
    counts = np.array(long_tail.exponential_counts(500, 100, imbalance))
    sizes = {"train": total, "val": 10_000, "test": 10_000}
    numbers = (f"cifar100_lt/{imbalance}", "plain", 100, sizes, counts)
    assert published.by_name(numbers[0]).groups == groups
    assert published.findings(*numbers) == [] and published.is_published(*numbers)
    assert published.by_form("plain", 100) is None


def test_equal_images_of_a_published_benchmark_are_a_warning(root, monkeypatch):
    world.copy_image(root, "violin/train_1.jpg", "violin/other.jpg", 2, "test")
    own = published.Benchmark(
        *("World", "plain", frozenset({"world"}), 12),
        *({"train": 36, "val": 12, "test": 25}, (3, 3), (0, 0, 12)),
    )
    monkeypatch.setattr(published, "BENCHMARKS", (own,))
    (finding,) = world.look(root).findings
    assert (finding.code, finding.severity) == ("leak", "warning")


def test_a_look_alike_of_a_benchmark_is_warned_of():
    counts = np.full(365, 10)
    (finding,) = published.findings("mine", "places_lt", 365, {"train": 3650}, counts)
    assert finding.severity == "warning"
    assert published.findings("mine", "places_lt", 364, {"train": 1}, counts) == []


@pytest.fixture
def reads(monkeypatch):
    """Names of the images that are read."""
    names = []
    read_content = rows.read_content

    def counted(path, description):
        names.append(path.name)
        return read_content(path, description)

    monkeypatch.setattr(rows, "read_content", counted)
    monkeypatch.setattr(inspection, "_CHUNK", 4)
    return names


def lines(ledger):
    return [json.loads(line) for line in ledger.read_text().splitlines()]


def test_an_interrupted_check_goes_on(root, tmp_path, reads, monkeypatch):
    """Broken by: writing what is known at the end, or not reading it."""
    ledger, updates = tmp_path / "images.jsonl", []

    class Bar(tqdm):
        def update(self, count):
            updates.append(count)
            assert len(lines(ledger)) == 4 * len(updates)  # as a kill leaves it
            if len(updates) == 5:
                signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(inspection, "progress_bar", lambda *_: Bar(disable=True))
        with pytest.raises(KeyboardInterrupt):
            check_data.check_data(world.config(root), ledger=ledger)
    assert len(lines(ledger)) == 20
    ledger.write_bytes(ledger.read_bytes()[:-30])  # a torn line costs one image
    for expected in (72 - 19, 0):
        reads.clear()
        again = check_data.check_data(world.config(root), ledger=ledger)
        assert again.findings == [] and len(reads) == expected


def test_a_changed_file_is_read_again(root, tmp_path, reads):
    ledger = tmp_path / "images.jsonl"
    check_data.check_data(world.config(root), ledger=ledger)
    size, path = world.image(root).stat().st_size, world.image(root)
    path.write_bytes(bytes(size))  # as large as before
    os.utime(path, ns=(1, 1))
    for _ in range(2):  # tried again: permissions leave no trace in the time
        reads.clear()
        (finding,) = check_data.check_data(world.config(root), ledger=ledger).findings
        assert finding.code == "image-unreadable" and reads == ["train_1.jpg"]


def test_pictures_that_are_no_files(tmp_path):
    """Records and rendered pictures: hashed by bytes or pixels, never remembered."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 16, 16, 3), np.uint8)
    pixels[3] = pixels[1]
    pictures = [Image.fromarray(array) for array in pixels]
    labels = np.array([0, 1, 0, 1], np.int32)
    every = dataset.Split(labels, pictures.__getitem__, lambda i: f"record {i}")
    train, test = every.select(np.arange(2)), every.select(np.arange(2, 4))
    splits = {"train": train, "val": test, "test": test}
    ledger = tmp_path / "images.jsonl"
    images = inspection.inspect(splits, num_threads=2, ledger=ledger)
    assert [image.width for image in images["train"]] == [16, 16]
    assert ledger.read_text() == ""
    classes = Classes(("cat", "dog"))
    (finding,) = check_data.membership.repeated_content(splits, images, classes)
    assert finding.code == "leak"
    assert str(finding.offenders[0]).startswith("record 1 [class 1 'dog']")
    assert check_data.membership.repeated_rows(splits, classes) == []


def test_exit_codes_and_files(root, tmp_path):
    broken = Path(shutil.copytree(root, tmp_path / "broken"))
    world.image(broken).write_bytes(b"")
    out = tmp_path / "found"
    command = [sys.executable, "-m", "vl_ltr_jax.data.check"]
    command += ["--config=configs/image_list.py", "--config.data.name=world"]
    done = subprocess.run(
        [*command, f"--config.data.root={broken}", f"--workdir={out}"],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout == (out / "report.md").read_text()
    (finding,) = json.loads((out / "findings.json").read_text())["findings"]
    assert finding["code"] == "image-unreadable"
    assert finding["offenders"][0]["class_name"] == "violin"
    assert len(lines(out / check_data.LEDGER)) == 72


def test_texts_of_windows_that_pass_for_gbk_are_named():
    """A curly apostrophe and the letter after it are a Chinese character in GBK."""
    words = "It\u2019s a child\u2019s thing, with a leaf and a stem. " * 8
    chinese = "\u6811\u53f6\u5f88\u5927\u3002" * 40
    contents = [words.encode("cp1252").decode("gbk"), chinese + "1", chinese + "2"]
    texts = [
        prose.ClassText(f"desc_{k}", text, "gbk") for k, text in enumerate(contents)
    ]
    findings = prose.findings(texts, Classes(["toy", "leaf", "tree"]))
    (encoding,) = [finding for finding in findings if finding.code == "text-encoding"]
    assert [offender.label for offender in encoding.offenders] == [0]

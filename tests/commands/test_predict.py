"""Recognition of files, by the command and by the function below it."""

import contextlib
import csv
import io
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import vl_ltr_jax
from vl_ltr_jax.commands import predict
from vl_ltr_jax.data.images.picture_folders import PictureFile
from vl_ltr_jax.recognizer import formats
from vl_ltr_jax.recognizer.batch import FileResult, recognize_files
from vl_ltr_jax.recognizer.predictions import AttendedSentence, Explanation, Prediction
from worlds import small_recognizer
from worlds.sound_images import picture

pytestmark = pytest.mark.usefixtures("jax_cache")


@pytest.fixture(scope="module")
def recognizer():
    return small_recognizer.make()


@pytest.fixture(scope="module")
def saved(recognizer, tmp_path_factory):
    """The directory of the saved recognizer."""
    directory = tmp_path_factory.mktemp("model") / "saved"
    recognizer.save(directory)
    return directory


@pytest.fixture
def loaded(recognizer, saved, monkeypatch):
    """The same directory; commands take the compiled recognizer for it."""
    monkeypatch.setattr(predict.load, "load", lambda directory: recognizer)
    return saved


def call(capsys, *arguments, code=0):
    """Standard output and standard error of a command."""
    assert predict.main([os.fspath(argument) for argument in arguments]) == code
    return capsys.readouterr()


def test_unreadable_files_keep_their_place(recognizer, saved, tmp_path, capsys):
    """Breaks if answers slip by one after an unreadable file."""
    folder = tmp_path / "pictures"
    paths = [picture(folder / f"{index:02}.png", index) for index in range(9)]
    for index, content in ((0, b""), (4, b"<html>"), (8, paths[8].read_bytes()[:99])):
        paths[index].write_bytes(content)
    (folder / "notes.txt").write_text("")
    printed = call(
        capsys, "--workdir", saved, "--json", "--batch_size=3", folder, "absent", code=1
    )
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert [line["path"] for line in lines] == [*map(os.fspath, paths), "absent"]
    assert [i for i, line in enumerate(lines) if "error" in line] == [0, 4, 8, 9]
    for index in (1, 2, 3, 5, 6, 7):
        (expected,) = recognizer.predict(paths[index])
        probabilities = [p["probability"] for p in lines[index]["predictions"]]
        np.testing.assert_allclose(probabilities, expected.probabilities, rtol=1e-5)
    for word in (str(paths[4]), "6 pictures", "1 .txt"):
        assert word in printed.err


def test_a_head_without_sentences_has_none(tmp_path, capsys):
    small_recognizer.make("linear").save(tmp_path / "saved")
    path = picture(tmp_path / "a.png")
    arguments = ("--workdir", tmp_path / "saved", "--top_k=9", path)
    assert len(call(capsys, *arguments).out.splitlines()) == 1 + 3
    assert json.loads(call(capsys, *arguments, "--json").out)["sentences"] == []


def test_json_and_csv_hold_the_same_predictions():
    name, sentence = 'comma, "quote"\nline', AttendedSentence("It is red.", 0.8, 0.3)
    prediction = Prediction((name, "b"), (0.75, 0.25), (1, 0))
    result = FileResult("a.png", Explanation(prediction, None, 0.5, (sentence,)))
    content = json.loads(formats.to_json(result))
    assert content["sentences"] == [
        {"text": "It is red.", "weight": 0.8, "cosine": 0.3}
    ]
    text = formats.CSV_HEADER + formats.to_csv(result)
    rows = csv.DictReader(io.StringIO(text, newline=""))
    for place, (row, rank) in enumerate(zip(rows, content["predictions"], strict=True)):
        assert (row["path"], row["rank"]) == (content["path"], str(place + 1))
        assert row["name"] == rank["name"] == prediction.names[place]
        assert row["class"] == str(rank["class"])
        assert float(row["probability"]) == rank["probability"]


def test_a_list_on_standard_input(loaded, tmp_path, capsys, monkeypatch):
    paths = [picture(tmp_path / name) for name in ("a b.png", "[c].png")]
    content = "\n".join(map(str, paths)).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    printed = call(capsys, "--workdir", loaded, "--csv", "--top_k=1", "-")
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    assert [row["path"] for row in rows] == list(map(str, paths))


def test_the_output_file_appears_whole_or_not_at_all(
    loaded, tmp_path, capsys, monkeypatch
):
    out, path = tmp_path / "answers.csv", picture(tmp_path / "a.png")
    out.write_text("before")
    arguments = ("--workdir", loaded, "--csv", "--out", out, path)

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(predict, "recognize_files", stop)
        call(capsys, *arguments, code=130)
    assert out.read_text() == "before"
    assert call(capsys, *arguments).out == ""
    assert len(out.read_text().splitlines()) == 4
    assert sorted(tmp_path.iterdir()) == [path, out]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--workdir=absent", "a.png"], "absent"),
        (["--workdir=SAVED", "--out=absent/a/b.csv", "a.png"], "absent/a/b.csv"),
        (["--workdir=SAVED", "-"], "PICTURE"),
        (["--workdir=SAVED"], "PICTURE"),
        (["a.png"], "--workdir"),
        (["--workdir=SAVED", "--top_k=0", "a.png"], "--top_k"),
    ],
)
def test_misuse_ends_with_two(saved, tmp_path, capsys, monkeypatch, arguments, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    (tmp_path / "a.png").write_bytes(b"")
    try:
        code = predict.main([word.replace("SAVED", str(saved)) for word in arguments])
    except SystemExit as exit:
        code = exit.code
    printed = capsys.readouterr()
    assert code == 2 and name in printed.err and printed.out == ""
    assert os.listdir(tmp_path) == ["a.png"]


def test_a_closed_pipe_ends_it_quietly(loaded, tmp_path, capsys, monkeypatch):
    faults = {"flush.side_effect": BrokenPipeError, "fileno.side_effect": ValueError}
    monkeypatch.setattr(sys, "stdout", mock.Mock(**faults))
    path = picture(tmp_path / "a.png")
    call(capsys, "--workdir", loaded, path, path, code=141)
    assert capsys.readouterr().err == ""


def test_files_are_read_no_further_ahead_than_needed(recognizer, tmp_path):
    """Breaks if the list of files is read to its end, which here never comes."""
    path, taken = picture(tmp_path / "a.png"), itertools.count()
    files = (PictureFile(str(path)) for _ in taken)
    answers = recognize_files(recognizer, files, batch_size=4)
    with contextlib.closing(answers):
        assert next(answers).path == str(path)
        assert next(taken) <= 2 * 4 + 2 + 1
        for _ in range(20):
            next(answers)
        assert next(taken) <= 21 + 4 + 2 * 4 + 2 + 2


def test_the_first_picture_goes_alone_and_the_others_together(
    recognizer, tmp_path, monkeypatch
):
    """Breaks if a first file that is bad takes its place."""
    explain, sizes = recognizer.explain_pixels, []

    def counted(pixels, *options):
        sizes.append(len(pixels))
        return explain(pixels, *options)

    monkeypatch.setattr(recognizer, "explain_pixels", counted)
    good = PictureFile(str(picture(tmp_path / "a.png")))
    bad = PictureFile("b.png", "no file")
    files = [*[bad] * 5, good, good, bad, *[good] * 4]
    answers = list(recognize_files(recognizer, files, batch_size=4))
    assert [answer.error for answer in answers] == [file.error for file in files]
    assert sizes == [1, 4, 1]


def test_it_starts_without_what_training_needs():
    """Breaks when an import at the top brings TensorFlow or transformers along."""
    code = (
        "import sys, vl_ltr_jax.predict, vl_ltr_jax.recognizer.load; "
        "print({'tensorflow', 'transformers', 'torch', 'matplotlib', 'clu'} "
        "& sys.modules.keys())"
    )
    root = Path(vl_ltr_jax.__file__).parents[1]
    output = subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True)
    assert output == "set()\n"

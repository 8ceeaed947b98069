"""Pictures from files to answers, by the function that the command calls."""

import contextlib
import csv
import io
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

import vl_ltr_jax
from vl_ltr_jax.commands import predict
from vl_ltr_jax.data.images import decode
from vl_ltr_jax.data.images.picture_folders import Found
from vl_ltr_jax.data.text import token_cache
from vl_ltr_jax.recognizer import formats
from vl_ltr_jax.recognizer.batch import FileResult, recognize_files
from vl_ltr_jax.recognizer.predictions import AttendedSentence, Explanation, Prediction
from vl_ltr_jax.runtime import compilation_cache
from worlds import small_recognizer
from worlds.sound_images import picture

pytestmark = pytest.mark.usefixtures("jax_cache")


@pytest.fixture(scope="module")
def recognizer():
    return small_recognizer.make()


@pytest.fixture(scope="module")
def saved(recognizer, tmp_path_factory):
    """It, on disk."""
    directory = tmp_path_factory.mktemp("model") / "saved"
    recognizer.save(directory)
    return directory


@pytest.fixture
def at_hand(recognizer, saved, monkeypatch):
    """It, loaded and its programs compiled when a command asks for it."""
    monkeypatch.setattr(predict.load, "load", lambda directory: recognizer)
    return saved


def answered(capsys, *arguments, code=0):
    """Standard output and standard error of a command."""
    assert predict.main([os.fspath(argument) for argument in arguments]) == code
    return capsys.readouterr()


def test_bad_files_are_told_in_their_place_and_the_rest_is_done(
    saved, tmp_path, capsys
):
    """Breaks if answers slip by one where a file is bad."""
    folder = tmp_path / "pictures"
    paths = [picture(folder / f"{index:02}.png", index) for index in range(9)]
    for index, content in ((0, b""), (4, b"<html>"), (8, paths[8].read_bytes()[:99])):
        paths[index].write_bytes(content)
    (folder / "notes.txt").write_text("")
    told = answered(
        capsys, "--workdir", saved, "--json", "--batch_size=3", folder, "gone", code=1
    )
    lines = [json.loads(line) for line in told.out.splitlines()]
    assert [line["path"] for line in lines] == [*map(os.fspath, paths), "gone"]
    assert [i for i, line in enumerate(lines) if "error" in line] == [0, 4, 8, 9]
    assert lines[9] == {"path": "gone", "error": "No such file or directory"}
    assert lines[4]["error"] == (
        "not an image of a format that is read "
        "(JPEG, PNG, WEBP, GIF, TIFF, BMP, PPM, AVIF, JPEG2000)"
    )
    recognizer = vl_ltr_jax.load(saved)
    for index in (1, 2, 3, 5, 6, 7):
        (wanted,) = recognizer.predict(paths[index])
        found = [one["probability"] for one in lines[index]["predictions"]]
        np.testing.assert_allclose(found, wanted.probabilities, rtol=1e-5)
    assert f"cannot read {paths[4]}: not an image" in told.err
    assert "6 pictures recognised, 4 could not be" in told.err
    assert "1 other file left out of folders: 1 .txt" in told.err


@pytest.mark.parametrize(
    "mode", ["exif", "cmyk", "palette", "grey16", "animated", "rgba"]
)
def test_a_picture_of_any_kind_is_seen_as_evaluation_sees_it(
    recognizer, tmp_path, mode
):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8))
    path, options = tmp_path / "a.png", {}
    if mode == "exif":
        path, exif = tmp_path / "a.jpg", Image.Exif()
        exif[0x0112] = 6  # a turn that training never saw
        options = {"exif": exif}
    elif mode == "cmyk":
        path, image = tmp_path / "a.jpg", image.convert("CMYK")
    elif mode == "palette":
        image, options = image.quantize(9), {"transparency": 3}
    elif mode == "grey16":
        image = Image.fromarray(rng.integers(0, 1 << 16, (20, 24), np.uint16))
    elif mode == "animated":
        path, frames = tmp_path / "a.gif", [image.rotate(90)]
        options = {"save_all": True, "append_images": frames}
    else:
        image = image.convert("RGBA")
    image.save(path, **options)
    (answer,) = recognize_files(recognizer, [Found(str(path))])
    pixels = recognizer.transform(decode.read_image(path, "a picture"))
    wanted = recognizer.probabilities_of(pixels[None])[0]
    found = answer.explanation.prediction
    np.testing.assert_allclose(found.probabilities, np.sort(wanted)[::-1], rtol=1e-6)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_picture_of_too_many_pixels_is_a_fault_of_its_own(
    at_hand, tmp_path, capsys, monkeypatch, suffix
):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    bomb = picture(tmp_path / f"bomb.{suffix}")
    large = picture(tmp_path / f"large.{suffix}", size=(20, 15))
    told = answered(capsys, "--workdir", at_hand, "--csv", bomb, large, code=1)
    assert "its header claims more pixels" in told.err
    assert "large" in told.out


def test_a_head_without_sentences_has_none(tmp_path, capsys):
    small_recognizer.make("linear").save(tmp_path / "saved")
    path = picture(tmp_path / "a.png")
    arguments = ("--workdir", tmp_path / "saved", "--top_k=9", path)
    assert len(answered(capsys, *arguments).out.splitlines()) == 1 + 3
    told = answered(capsys, *arguments, "--json").out
    assert json.loads(told)["sentences"] == []


HOSTILE = 'comma, "quote"\nline\u2028\u202e=1+1 \x00'


def test_json_and_csv_carry_any_name_and_any_bytes():
    path = os.fsdecode(b"caf\xe9 \xf0\x9f\x90\xa6.png")
    prediction = Prediction((HOSTILE, "b"), (0.75, 0.25), (1, 0))
    said = Explanation(prediction, None, 0.5, (AttendedSentence(HOSTILE, 1.0, -0.5),))
    text = formats.to_json(FileResult(path, said))
    assert len(text.splitlines()) == 1 and "\U0001f426" in text
    text.encode()  # half characters are escapes
    content = json.loads(text)
    assert content["path"] == path
    assert content["predictions"][0]["name"] == HOSTILE
    assert content["sentences"] == [{"text": HOSTILE, "weight": 1.0, "cosine": -0.5}]

    rows = formats.CSV_HEADER + formats.to_csv(FileResult(path, said))
    rows = list(csv.DictReader(io.StringIO(rows, newline="")))
    assert [row["rank"] for row in rows] == ["1", "2"]
    assert rows[0]["path"] == path and rows[0]["name"] == HOSTILE
    assert (rows[0]["class"], rows[0]["probability"]) == ("1", "0.75")

    shown = formats.to_text(FileResult(path, said))
    assert shown.count("\n") == 4 and "\\udce9 \U0001f426.png" in shown
    assert all(char.isprintable() or char == "\n" for char in shown)


@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_paths_that_are_no_text_go_through_the_command(at_hand, tmp_path, form):
    name = os.fsencode(picture(tmp_path / "a.png").with_name("a")) + b"\xff.png"
    os.rename(tmp_path / "a.png", name)
    out = tmp_path / "out"
    path = os.fsdecode(name)
    code = predict.main(["--workdir", str(at_hand), form, "--out", str(out), path, "b"])
    assert code == 1
    content = out.read_bytes()
    assert (b"\\udcff.png" if form == "--json" else b"\xff.png") in content


def test_lists_on_standard_input(at_hand, tmp_path, capsys, monkeypatch):
    paths = [picture(tmp_path / name) for name in ("a b.png", "[c].png")]
    for separator in ("\n", "\0"):
        content = separator.join(map(str, paths)).encode()
        stdin = io.TextIOWrapper(io.BytesIO(content))
        monkeypatch.setattr(sys, "stdin", stdin)
        told = answered(capsys, "--workdir", at_hand, "--csv", "--top_k=1", "-")
        rows = list(csv.DictReader(io.StringIO(told.out)))
        assert [row["path"] for row in rows] == list(map(str, paths))


def test_a_file_of_answers_appears_whole_or_not_at_all(
    at_hand, tmp_path, capsys, monkeypatch
):
    out, path = tmp_path / "answers.csv", picture(tmp_path / "a.png")
    out.write_text("before")
    arguments = ("--workdir", at_hand, "--csv", "--out", out, path)

    def stop(*_, **__):
        assert list(tmp_path.glob("answers.csv*")) != [out]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(predict, "recognize_files", stop)
        answered(capsys, *arguments, code=130)
    assert out.read_text() == "before"
    assert answered(capsys, *arguments).out == ""
    assert len(out.read_text().splitlines()) == 4
    assert list(tmp_path.glob("answers.csv*")) == [out]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workdir=absent", "a.png"], "no such directory"),
        (["--workdir=SAVED", "--out=absent/a.csv", "a.png"], "absent/a.csv cannot be"),
        (["--workdir=SAVED", "-"], "no picture is named"),
        (["--workdir=SAVED"], "the following arguments are required"),
        (["a.png"], "--workdir"),
        (["--workdir=SAVED", "--top_k=0", "a.png"], "0 is less than 1"),
        (["--workdir=SAVED", "--batch_size=x", "a.png"], "whole number"),
        (["--workdir=SAVED", "--top=5", "a.png"], "--top=5"),
        (["--workdir=SAVED", "--csv", "--json", "a.png"], "not allowed with"),
    ],
)
def test_misuse_ends_with_two(saved, tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    given = [argument.replace("SAVED", str(saved)) for argument in arguments]
    try:
        code = predict.main(given)
    except SystemExit as exit:
        code = exit.code
    told = capsys.readouterr()
    assert code == 2 and words in told.err and told.out == ""
    assert os.listdir(tmp_path) == []


def test_a_reader_that_has_seen_enough_ends_it_quietly(
    at_hand, tmp_path, capsys, monkeypatch
):
    class Head(io.StringIO):
        def flush(self):
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Head())
    path = picture(tmp_path / "a.png")
    answered(capsys, "--workdir", at_hand, path, path, code=141)
    assert capsys.readouterr().err == ""


def test_files_are_read_no_further_ahead_than_needed(recognizer, tmp_path):
    """Breaks if the list of files is read to its end, which here never comes."""
    path, taken = picture(tmp_path / "a.png"), itertools.count()
    files = (Found(str(path)) for _ in taken)
    answered = recognize_files(recognizer, files, batch_size=4, num_threads=2)
    with contextlib.closing(answered):
        assert next(answered).path == str(path)
        assert next(taken) <= 2 * 4 + 2 + 1
        for _ in range(20):
            next(answered)
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
    good, bad = Found(str(picture(tmp_path / "a.png"))), Found("b.png", "gone")
    files = [*[bad] * 5, good, good, bad, *[good] * 4]
    answers = list(recognize_files(recognizer, files, batch_size=4))
    assert [answer.error for answer in answers] == [file.error for file in files]
    assert sizes == [1, 4, 1]


def test_progress_on_a_screen_alone(at_hand, tmp_path, capsys, monkeypatch):
    for index in range(22):
        picture(tmp_path / "pictures" / f"{index}.png")
    arguments = ("--workdir", at_hand, "--csv", tmp_path / "pictures")
    assert "pictures" not in answered(capsys, *arguments).err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    arguments += ("--out", tmp_path / "out.csv")
    assert answered(capsys, *arguments, "--quiet").err == ""
    told = re.sub(r"\x1b\[\d*m", "", answered(capsys, *arguments).err)
    assert re.search(r"\rpredict 1(/22 \(4%\))?\s", told)


def test_programs_lie_beside_the_model_or_in_the_users_cache(
    saved, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    places = []
    for writable in (True, False):
        monkeypatch.setattr(os, "access", lambda *_, w=writable: w)
        compilation_cache.write_beside(
            epath.Path(saved), token_cache.default_directory()
        )
        places.append(jax.config.jax_compilation_cache_dir)
    assert places[0] == str(saved / "compiled")
    assert places[1] == str(tmp_path / "vl_ltr_jax" / "compiled")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "named")
    compilation_cache.write_beside(epath.Path(saved), token_cache.default_directory())
    assert jax.config.jax_compilation_cache_dir == places[1]


def test_answers_go_into_a_pipe_and_through_a_link(at_hand, tmp_path, capsys):
    """Breaks if a device, a pipe or a link is replaced by a file."""
    path, pipe = picture(tmp_path / "a.png"), tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    answered(capsys, "--workdir", at_hand, "--csv", "--out", pipe, path)
    assert os.read(reader, 9999).count(b"\n") == 4 and pipe.is_fifo()
    os.close(reader)
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    answered(capsys, "--workdir", at_hand, "--csv", "--out", link, path)
    assert link.is_symlink() and len(target.read_text().splitlines()) == 4


def test_two_commands_with_one_place_do_not_mix(at_hand, tmp_path, monkeypatch):
    """Breaks if the second writes into the partial file of the first."""
    path, out = picture(tmp_path / "a.png"), tmp_path / "out"
    arguments = [f"--workdir={at_hand}", f"--out={out}", "--csv", str(path)]

    def again(*given, **options):
        monkeypatch.undo()
        assert predict.main(arguments) == 0
        return recognize_files(*given, **options)

    monkeypatch.setattr(predict, "recognize_files", again)
    assert predict.main(arguments) == 0
    assert len(out.read_text().splitlines()) == 4
    assert not list(tmp_path.glob("*partial"))


def test_a_directory_to_write_into_is_refused_before_the_model_is_loaded(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(predict.load, "load", None)
    path = picture(tmp_path / "a.png")
    arguments = ("--workdir", tmp_path, "--out", tmp_path, path)
    assert "Is a directory" in answered(capsys, *arguments, code=2).err


def test_a_pattern_does_not_wait_for_a_pipe(at_hand, tmp_path, capsys):
    os.mkfifo(tmp_path / "a.png")
    told = answered(capsys, "--workdir", at_hand, tmp_path / "*.png", code=1)
    assert "a.png: no file" in told.err


def test_closed_streams_are_no_fault(at_hand, tmp_path, monkeypatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    path, out = picture(tmp_path / "a.png"), tmp_path / "out"
    arguments = [f"--workdir={at_hand}", f"--out={out}", str(path), "bad"]
    try:
        assert predict.main([*arguments, "--json"]) == 1
    finally:
        for name in ("stdin", "stdout", "stderr"):
            getattr(sys, name).close()
    assert len(out.read_text().splitlines()) == 2


def test_it_starts_without_what_training_needs():
    """Breaks when an import at the top brings TensorFlow or transformers along."""
    code = (
        "import sys, vl_ltr_jax.predict, vl_ltr_jax.recognizer.load; "
        "print({'tensorflow', 'transformers', 'torch', 'matplotlib', 'clu'} "
        "& sys.modules.keys())"
    )
    root = Path(vl_ltr_jax.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True
    )
    assert done.stdout == "set()\n", done.stderr

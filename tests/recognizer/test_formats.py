"""Outputs as text for people, by the command that prints them."""

import itertools

import numpy as np
import pytest
from PIL import Image

from vl_ltr_jax.commands import predict
from vl_ltr_jax.recognizer import formats
from worlds import small_recognizer

pytestmark = pytest.mark.usefixtures("jax_cache")


@pytest.fixture(scope="module")
def recognizer():
    return small_recognizer.make()


@pytest.fixture
def told(recognizer, tmp_path, monkeypatch, capsys):
    """What the command prints of files of these names; a missing one is bad."""
    monkeypatch.setattr(predict.load, "load", lambda directory: recognizer)

    def ask(*names, options=()):
        rng = np.random.default_rng(0)
        for name in names:
            if not name.startswith("gone"):
                pixels = rng.integers(0, 256, (20, 24, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / name)
        paths = [str(tmp_path / name) for name in names]
        predict.main([f"--workdir={tmp_path}", *options, *paths])
        return capsys.readouterr()

    return ask


def test_text_says_what_its_numbers_are_once(told, tmp_path):
    """Breaks if pictures run into each other, or a cursor could be moved."""
    names = ("a.png", "b\n\x1b[2J.png")
    said = told(*names, options=("--top_k=2", "--sentences=1")).out
    assert said.startswith(formats.TEXT_HEADER)
    assert said.count("weights: shares of the attention, 1 in all") == 1
    blocks = said.removeprefix(formats.TEXT_HEADER).split("\n\n")
    name, *classes, sentence = blocks[0].splitlines()
    assert name == f"{tmp_path}/a.png"
    shares = [float(line.split(" %  ")[0]) for line in classes]
    assert len(classes) == 2 and 100 >= shares[0] >= shares[1]
    assert {line.index("%") for line in classes} == {8}
    weight, text = sentence.split(maxsplit=1)
    texts = itertools.chain(*small_recognizer.make().card.sentences)
    assert 0.5 <= float(weight) <= 1 and text in texts
    assert blocks[1].startswith(f"{tmp_path}/b\\n\\x1b[2J.png\n")
    assert len(blocks) == 2 and said.endswith("\n") and not said.endswith("\n\n")


@pytest.mark.parametrize("options", [("--sentences=0",), ("--csv",), ("--json",)])
def test_without_weights_nothing_is_said_of_them(told, options):
    said = told("gone.png", "a.png", "gone2.png", "b.png", options=options).out
    assert "#" not in said
    blank = said.count("\n\n")
    assert blank == (1 if options == ("--sentences=0",) else 0)
    assert not said.startswith("\n")


def test_one_picture_is_one(told):
    said = told("gone.png", "a.png").err
    assert "warning: 1 picture recognised, 1 could not be" in said


def test_help_has_the_defaults(capsys):
    with pytest.raises(SystemExit):
        predict.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for words in ("default 5", "default 3", "default 64", "default standard output"):
        assert words in said
    assert "by default text for people" in said

"""A trained run that is used as a library: loaded, asked, given a class, saved."""

import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image

import vl_ltr_jax
from vl_ltr_jax.commands import predict
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.data.images.decode import ImageReadError
from vl_ltr_jax.evaluate import accuracy
from vl_ltr_jax.recognizer import added_classes, head, load
from vl_ltr_jax.recognizer.card import RecognizerError
from vl_ltr_jax.report.page import write
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.storage.artifact import ArtifactError
from worlds import image_world

SENTENCES = ["A jade thing is jade.", "It looks  green \n and dull.", "A third one."]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = image_world.write(tmp_path_factory.mktemp("data") / "world")
    workdir = tmp_path_factory.mktemp("run")
    config = image_world.configure(root)
    image_world.run(image_world.change(config, pretrain__epochs=0), workdir)
    return root, workdir


@pytest.fixture(scope="module")
def loaded(finished):
    return vl_ltr_jax.load(finished[1])


@pytest.fixture
def recognizer(finished):
    """One that a test may change."""
    return vl_ltr_jax.load(finished[1])


def test_it_says_what_it_is_and_where_from(loaded, finished, recognizer, tmp_path):
    num = len(loaded.class_names)
    size = loaded.card.image_size
    about = f"vl_ltr, {num} classes, ViT-tiny at {size} pixels"
    assert repr(loaded) == f"<Recognizer: {about}, from {finished[1]}>"
    recognizer.add_class("jade", SENTENCES).save(tmp_path / "saved")
    added = f"vl_ltr, {num + 1} classes (1 added), ViT-tiny at {size} pixels"
    again = vl_ltr_jax.load(tmp_path / "saved")
    assert repr(again) == f"<Recognizer: {added}, from {tmp_path / 'saved'}>"


def test_images(root):
    rows = (root / "world_test.txt").read_text().splitlines()
    return [root / row.rpartition(" ")[0] for row in rows]


test_images.__test__ = False


def kept(workdir, name):
    return np.load(workdir / "evaluate" / f"test_{name}.npy")


def test_it_predicts_what_the_evaluation_has_seen(finished, loaded):
    """Breaks with another transform, normalisation, mixture weight or anchor."""
    root, workdir = finished
    predictions = loaded.predict(test_images(root))
    for name in ("classes", "probabilities"):
        found = [getattr(one, name) for one in predictions]
        np.testing.assert_allclose(found, kept(workdir, name), rtol=1e-5)
    first = predictions[0]
    assert first.names == tuple(loaded.class_names[c] for c in first.classes)
    assert sum(first.probabilities) == pytest.approx(1, abs=1e-5)


@pytest.mark.usefixtures("jax_cache")
def test_the_command_says_what_the_evaluation_said(finished, capsys):
    """Breaks with another transform, another order of files, or rows of the filling."""
    root, workdir = finished
    paths = list(map(str, test_images(root)))
    assert predict.main(["--workdir", str(workdir), "--json", *paths]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["path"] for line in lines] == paths
    for key, name in (("probability", "probabilities"), ("class", "classes")):
        found = [[one[key] for one in line["predictions"]] for line in lines]
        np.testing.assert_allclose(found, kept(workdir, name), rtol=1e-5)
    sentences = json.loads((workdir / "anchors" / "sentences.json").read_text())
    for line in lines:
        texts = [spoken["text"] for spoken in line["sentences"]]
        assert sorted(texts) == sorted(sentences[line["predictions"][0]["class"]])


def test_what_evaluation_keeps_adds_up_to_its_accuracies(finished):
    """Breaks if rows are lost, reordered or taken from the filling of a batch."""
    root, workdir = finished
    results = json.loads((workdir / "results.json").read_text())
    rows = (root / "world_test.txt").read_text().splitlines()
    labels = [int(row.rpartition(" ")[2]) for row in rows]
    np.testing.assert_array_equal(kept(workdir, "labels"), labels)
    right = kept(workdir, "classes")[:, 0] == labels
    assert 100 * right.mean() == pytest.approx(results["test"]["lgr"]["top1"])
    np.testing.assert_array_equal(kept(workdir, "margins") > 0, right)


def test_margins_and_ranks_are_those_of_numpy():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 7)).astype(np.float32)
    labels = np.array([logits[0].argmax(), 6, 3, 3, 1, 2], np.int32)
    ranking = accuracy.rank(jax.nn.softmax(logits), jnp.asarray(labels), 3)
    np.testing.assert_array_equal(ranking.classes, np.argsort(-logits)[:, :3])
    for row, label in enumerate(labels):
        others = np.delete(logits[row], label)
        margin = logits[row, label] - others.max()
        assert float(ranking.margins[row]) == pytest.approx(margin, abs=1e-5)


def test_the_attention_it_tells_of_gives_the_language_logits(finished, loaded):
    """Breaks if the attention told is not the one that the head computes with."""
    root, _ = finished
    images = test_images(root)[:4]
    explained = loaded.explain(images, num_sentences=2)
    features = loaded.embed_images(images)
    arrays = jax.tree.map(jnp.asarray, loaded.arrays)
    said = head.apply(loaded.card, arrays, jnp.asarray(features))
    scale = np.exp(loaded.card.language_logit_scale)
    for row, one in enumerate(explained):
        label = one.prediction.classes[0]
        texts = loaded.card.sentences[label]
        anchors = loaded.arrays["anchors"]["embeddings"][label]
        assert len(one.sentences) == 2
        assert one.sentences[0].weight >= one.sentences[1].weight
        assert sum(s.weight for s in one.sentences) == pytest.approx(1, abs=1e-5)
        guide = sum(s.weight * anchors[texts.index(s.text)] for s in one.sentences)
        cosine = guide @ features[row] / np.linalg.norm(guide)
        logit = scale * cosine / np.linalg.norm(features[row])
        assert logit == pytest.approx(float(said.language[row, label]), rel=1e-4)
        language = jax.nn.softmax(said.language[row])[label]
        assert one.language == pytest.approx(float(language), rel=1e-4)
        visual = jax.nn.softmax(said.visual[row])[label]
        assert one.visual == pytest.approx(float(visual), rel=1e-4)


def test_pictures_come_as_paths_images_and_arrays(finished, loaded):
    path = test_images(finished[0])[0]
    with Image.open(path) as image:
        pixels = np.asarray(image)
        given = [path, str(path), image, pixels]
        many = loaded.probabilities(given)
    np.testing.assert_allclose(many, many[:1].repeat(4, 0), rtol=1e-5)
    np.testing.assert_allclose(loaded.probabilities(pixels), many[:1], rtol=1e-5)
    assert loaded.predict([]) == []
    assert len(loaded.predict(path, top_k=2)[0].names) == 2


def test_what_is_no_picture_is_refused(loaded, tmp_path):
    (tmp_path / "page.jpg").write_text("<html>")
    with pytest.raises(ImageReadError, match="page.jpg"):
        loaded.predict(tmp_path / "page.jpg")
    # There is no list here whose row could be removed.
    with pytest.raises(ImageReadError, match="absent.jpg.*file, or leave it out$"):
        loaded.predict(tmp_path / "absent.jpg")
    with pytest.raises(RecognizerError, match="float64.*uint8"):
        loaded.predict(np.zeros((4, 4, 3)))


def test_sentences_embed_as_the_run_embedded_them(finished, loaded):
    embedded = loaded.embed_texts(loaded.card.sentences[1])
    anchors = loaded.arrays["anchors"]["embeddings"][1]
    np.testing.assert_allclose(embedded, anchors, rtol=1e-4, atol=1e-5)


def test_an_added_class_is_the_last_and_the_others_keep_their_order(
    finished, recognizer
):
    """Breaks if the visual branch gets a say in a class that it does not know."""
    images = test_images(finished[0])
    before = recognizer.probabilities(images)
    assert recognizer.add_class("jade", SENTENCES) is recognizer
    after = recognizer.probabilities(images)
    assert recognizer.class_names == ("crimson", "azure", "moss", "jade")
    np.testing.assert_allclose(after.sum(axis=1), 1, rtol=1e-5)
    left = 1 - after[:, 3:]
    np.testing.assert_allclose(after[:, :3], left * before, rtol=1e-4, atol=1e-7)
    # Two anchors a class: two sentences are taken, blank space made even.
    evened = [" ".join(sentence.split()) for sentence in SENTENCES]
    assert set(recognizer.card.sentences[3]) < set(evened)
    assert len(recognizer.card.sentences[3]) == 2
    jade = recognizer.explain(images[0], top_k=4)[0]
    assert "jade" in jade.prediction.names


def test_a_class_added_twice_the_same_shares_its_images(finished, recognizer):
    """Breaks if a second class is calibrated as if the first were not there."""
    images = test_images(finished[0])
    recognizer.add_class("jade", SENTENCES).add_class("jade too", SENTENCES)
    after = recognizer.probabilities(images)
    added = recognizer.arrays["added"]
    np.testing.assert_allclose(added["embeddings"][0], added["embeddings"][1])
    ratio = np.exp(added["offsets"][1] - added["offsets"][0])
    np.testing.assert_allclose(after[:, 4] / after[:, 3], ratio, rtol=1e-4)
    assert added["offsets"][1] <= added["offsets"][0] + 1e-5


def test_the_offset_of_a_new_class_is_the_largest_allowed():
    """Breaks if it is set by another rank, or by the trained classes alone."""
    rng = np.random.default_rng(1)
    trained = rng.dirichlet(np.ones(5), 200).astype(np.float32)
    language = rng.normal(size=(200, 5)).astype(np.float32)
    added = rng.normal(size=(200, 2)).astype(np.float32)
    new = rng.normal(size=200).astype(np.float32)

    def taken(offset):
        logits = np.concatenate([added, new[:, None] + offset], axis=1)
        joined = added_classes.join(*map(jnp.asarray, (trained, language, logits)))
        return int((np.argmax(np.asarray(joined), axis=1) == 7).sum())

    offset = added_classes.choose_offset(trained, language, added, new, max_taken=0.03)
    assert taken(np.float32(offset - 1e-4)) == 6
    assert taken(np.float32(offset + 1e-4)) == 7
    nothing = np.zeros((0, 5), np.float32)
    assert (
        added_classes.choose_offset(nothing, nothing, nothing, np.zeros(0, np.float32))
        == 0
    )


def test_the_anchors_of_a_new_class_tell_images_apart():
    """Breaks if they are the first, or those nearest to the images."""
    images = np.eye(3, dtype=np.float32) * np.array([1, 2, 3], np.float32)[:, None]
    sentences = np.array([[1, 1, 1], [5, 0, 0], [1, 1, 0]], np.float32)
    chosen = added_classes.choose_anchors(sentences, images, 2)
    assert chosen.tolist() == [1, 2]
    assert added_classes.choose_anchors(sentences, images[:0], 2).tolist() == [0, 1]
    assert added_classes.choose_anchors(sentences, images, 9).tolist() == [1, 2, 0]


def test_what_was_saved_answers_alike(finished, recognizer, tmp_path):
    images = test_images(finished[0])
    recognizer.add_class("jade", SENTENCES).save(tmp_path / "kept")
    again = vl_ltr_jax.load(tmp_path / "kept")
    assert again.card == recognizer.card
    np.testing.assert_array_equal(
        again.probabilities(images), recognizer.probabilities(images)
    )
    assert again.explain(images[:2]) == recognizer.explain(images[:2])
    again.add_class("teal", SENTENCES[1:])
    recognizer.add_class("teal", SENTENCES[1:])
    np.testing.assert_array_equal(
        again.probabilities(images), recognizer.probabilities(images)
    )
    with pytest.raises(ValueError, match="in use"):
        again.save(tmp_path / "kept")


@pytest.mark.parametrize(
    ("name", "sentences", "words"),
    [
        ("azure", SENTENCES, "already, label 1"),
        (" ", SENTENCES, "needs a name"),
        ("jade", ["", " \n"], "no sentence"),
    ],
)
def test_a_class_that_cannot_be_added(recognizer, name, sentences, words):
    card = recognizer.card
    with pytest.raises(RecognizerError, match=words):
        recognizer.add_class(name, sentences)
    assert recognizer.card is card


def test_what_is_no_model_is_refused_with_what_to_do(finished, recognizer, tmp_path):
    with pytest.raises(ArtifactError, match="no such directory"):
        vl_ltr_jax.load(tmp_path / "absent")
    with pytest.raises(ArtifactError, match="config.json nor a recognizer.json"):
        vl_ltr_jax.load(finished[0])
    kept = tmp_path / "kept"
    recognizer.save(kept)
    card = json.loads((kept / "recognizer.json").read_text())
    (kept / "recognizer.json").write_text(json.dumps({**card, "class_names": ["one"]}))
    with pytest.raises(ArtifactError, match="1 class names, 3 of them trained"):
        vl_ltr_jax.load(kept)
    (kept / "recognizer.json").write_text(json.dumps(card))
    data = (kept / "recognizer.safetensors").read_bytes()
    (kept / "recognizer.safetensors").write_bytes(data[:1000])
    with pytest.raises(ArtifactError, match="save it again"):
        vl_ltr_jax.load(kept)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("classes.json", '{"names": ["a"], "train_counts": [1]}'),
        ("model.json", '{"normalization": [[0.5], [0.5]]}'),
        ("anchors/sentences.json", "[[]]"),
        ("anchors/sentences.json", "{"),
        ("evaluate/artifact.json", '{"seconds": 1, "versions": {}}'),
    ],
)
def test_a_damaged_run_is_refused(finished, tmp_path, file, content):
    copy = shutil.copytree(finished[1], tmp_path / "copy")
    (copy / file).write_text(content)
    with pytest.raises(ArtifactError, match="copy"):
        vl_ltr_jax.load(copy)


def test_an_unfinished_run_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "classes.json").write_text('{"names": ["a"], "train_counts": [1]}')
    with pytest.raises(ArtifactError, match="'evaluate' .* is not finished"):
        vl_ltr_jax.load(tmp_path)


@pytest.mark.parametrize(
    ("readme", "num_lines"),
    [
        ("README.md", 2),  # pictures
        ("vl_ltr_jax/recognizer/README.md", 2 + 2),  # and sentences of the first
    ],
)
def test_the_example_of_the_readme_runs(
    finished, tmp_path, monkeypatch, capsys, readme, num_lines
):
    """Breaks with a name of the library that README does not know."""
    text = (Path(__file__).parents[2] / readme).read_text()
    example = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[0]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "shapes_lt").symlink_to(finished[1])
    for name, image in zip(("one", "two"), test_images(finished[0]), strict=False):
        Image.open(image).save(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, readme, "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == num_lines
    assert vl_ltr_jax.load("runs/with_okapi").class_names[-1] == "okapi"


def test_the_page_of_a_run_shows_what_its_stages_left(finished, loaded, monkeypatch):
    """Breaks if an array is not found, or pictures and names go apart."""
    root, workdir = finished
    config = configs.from_json((workdir / "config.json").read_text())
    mesh = meshes.make_mesh(config.mesh.data, config.mesh.model)
    this = Run(config, epath.Path(workdir), run_inputs.read(config), mesh)
    results = json.loads((workdir / "results.json").read_text())
    write.write(this, results)
    html = (workdir / write.NAME).read_text()
    for part in ("classes", "confusion", "learning", "anchors", "predictions"):
        assert f'<section id="{part}">' in html
    explained = write._explained(this, write._ranked(this), loaded)
    labels, classes = kept(workdir, "labels"), kept(workdir, "classes")
    for picture, label, explanation in explained:
        assert loaded.predict(picture)[0].classes == explanation.prediction.classes
        answers = classes[labels == label, 0]
        assert explanation.prediction.classes[0] in answers

    def refuse(workdir):
        raise ArtifactError("no head")

    monkeypatch.setattr(load, "from_run", refuse)
    write.write(this, results)
    html = (workdir / write.NAME).read_text()
    assert '<section id="predictions">' not in html
    assert '<section id="anchors">' in html

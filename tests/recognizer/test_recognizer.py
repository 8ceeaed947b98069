"""A trained run as a library: loading, predictions, added classes, saving."""

import copy
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image

import vl_ltr_jax
from vl_ltr_jax.commands import predict
from vl_ltr_jax.data.images.decode import ImageReadError
from vl_ltr_jax.evaluate import accuracy
from vl_ltr_jax.recognizer import added_classes, head, load
from vl_ltr_jax.report.page import write as page
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.run.saved import SavedRun
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.runtime.errors import UserError
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
def recognizer(loaded):
    """One that a test may change, with the programs of the loaded one."""
    return copy.copy(loaded)


@pytest.fixture(scope="module")
def pictures(finished):
    root, _ = finished
    rows = (root / "world_test.txt").read_text().splitlines()
    return [root / row.rpartition(" ")[0] for row in rows]


def evaluated(workdir, name):
    return np.load(workdir / "evaluate" / f"test_{name}.npy")


def test_it_predicts_what_the_evaluation_has_seen(finished, loaded, pictures):
    """Breaks with another transform, normalisation, mixture weight or anchor."""
    predictions = loaded.predict(pictures)
    for name in ("classes", "probabilities"):
        values = [getattr(prediction, name) for prediction in predictions]
        np.testing.assert_allclose(values, evaluated(finished[1], name), rtol=1e-5)
    first = predictions[0]
    assert first.names == tuple(loaded.class_names[c] for c in first.classes)
    assert sum(first.probabilities) == pytest.approx(1, abs=1e-5)


@pytest.mark.usefixtures("jax_cache")
def test_the_command_prints_the_predictions_of_the_evaluation(
    finished, pictures, capsys
):
    """Breaks with another transform, another order of files, or padded rows."""
    _, workdir = finished
    paths = list(map(str, pictures))
    assert predict.main(["--workdir", str(workdir), "--json", *paths]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["path"] for line in lines] == paths
    for key, name in (("probability", "probabilities"), ("class", "classes")):
        values = [[rank[key] for rank in line["predictions"]] for line in lines]
        np.testing.assert_allclose(values, evaluated(workdir, name), rtol=1e-5)


def test_arrays_of_the_evaluation_add_up_to_its_accuracies(finished):
    """Breaks if rows are lost, reordered or taken from the padding of a batch."""
    root, workdir = finished
    results = json.loads((workdir / "results.json").read_text())
    rows = (root / "world_test.txt").read_text().splitlines()
    labels = [int(row.rpartition(" ")[2]) for row in rows]
    np.testing.assert_array_equal(evaluated(workdir, "labels"), labels)
    right = evaluated(workdir, "classes")[:, 0] == labels
    assert 100 * right.mean() == pytest.approx(results["test"]["lgr"]["top1"])
    np.testing.assert_array_equal(evaluated(workdir, "margins") > 0, right)


def test_margins_and_ranks_are_those_of_numpy():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 7)).astype(np.float32)
    labels = np.array([logits[0].argmax(), 6, 3, 3, 1, 2], np.int32)
    ranking = accuracy.rank(jax.nn.softmax(logits), jnp.asarray(labels), 3)
    np.testing.assert_array_equal(ranking.classes, np.argsort(-logits)[:, :3])
    for row, label in enumerate(labels):
        margin = logits[row, label] - np.delete(logits[row], label).max()
        assert float(ranking.margins[row]) == pytest.approx(margin, abs=1e-5)


def test_the_attention_it_tells_of_gives_the_language_logits(loaded, pictures):
    """Breaks if the explained attention is not the head's."""
    images = pictures[:4]
    explanations = loaded.explain(images, num_sentences=2)
    features = loaded.embed_images(images)
    arrays = jax.tree.map(jnp.asarray, loaded.arrays)
    outputs = head.apply(loaded.card, arrays, jnp.asarray(features))
    embedded = loaded.embed_texts(loaded.card.sentences[1])
    expected = loaded.arrays["anchors"]["embeddings"][1]
    np.testing.assert_allclose(embedded, expected, rtol=1e-4, atol=1e-5)
    scale = np.exp(loaded.card.language_logit_scale)
    for row, explanation in enumerate(explanations):
        label = explanation.prediction.classes[0]
        texts = loaded.card.sentences[label]
        anchors = loaded.arrays["anchors"]["embeddings"][label]
        sentences = explanation.sentences
        assert sentences[0].weight >= sentences[1].weight
        assert sum(s.weight for s in sentences) == pytest.approx(1, abs=1e-5)
        guide = sum(s.weight * anchors[texts.index(s.text)] for s in sentences)
        cosine = guide @ features[row] / np.linalg.norm(guide)
        logit = scale * cosine / np.linalg.norm(features[row])
        assert logit == pytest.approx(float(outputs.language[row, label]), rel=1e-4)
        for branch in ("language", "visual"):
            share = jax.nn.softmax(getattr(outputs, branch)[row])[label]
            expected = pytest.approx(float(share), rel=1e-4)
            assert getattr(explanation, branch) == expected


def test_pictures_are_paths_images_or_arrays(loaded, pictures, tmp_path):
    path = pictures[0]
    with Image.open(path) as image:
        pixels = np.asarray(image)
        many = loaded.probabilities([path, str(path), image, pixels])
    np.testing.assert_allclose(many, many[:1].repeat(4, 0), rtol=1e-5)
    np.testing.assert_allclose(loaded.probabilities(pixels), many[:1], rtol=1e-5)
    assert loaded.predict([]) == []
    assert len(loaded.predict(path, top_k=2)[0].names) == 2
    (tmp_path / "page.jpg").write_text("<html>")
    for name in ("page.jpg", "absent.jpg"):
        with pytest.raises(ImageReadError, match=name):
            loaded.predict(tmp_path / name)


def test_an_added_class_is_the_last_and_the_others_keep_their_order(
    recognizer, pictures
):
    """Breaks if the visual branch scores an added class."""
    before = recognizer.probabilities(pictures)
    assert recognizer.add_class("jade", SENTENCES) is recognizer
    after = recognizer.probabilities(pictures)
    assert recognizer.class_names == ("crimson", "azure", "moss", "jade")
    np.testing.assert_allclose(after.sum(axis=1), 1, rtol=1e-5)
    share = 1 - after[:, 3:]
    np.testing.assert_allclose(after[:, :3], share * before, rtol=1e-4, atol=1e-7)
    # Two anchors a class: two sentences.
    assert len(recognizer.card.sentences[3]) == 2


def test_equal_added_classes_share_their_images(recognizer, pictures):
    """Breaks if the calibration of the second class ignores the first."""
    recognizer.add_class("jade", SENTENCES).add_class("jade too", SENTENCES)
    after = recognizer.probabilities(pictures)
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
    empty = np.zeros((0, 5), np.float32)
    assert added_classes.choose_offset(empty, empty, empty, empty[:, 0]) == 0


def test_the_anchors_of_a_new_class_tell_images_apart():
    """Breaks if they are the first, or those nearest to the images."""
    images = np.eye(3, dtype=np.float32) * np.array([1, 2, 3], np.float32)[:, None]
    sentences = np.array([[1, 1, 1], [5, 0, 0], [1, 1, 0]], np.float32)
    chosen = added_classes.choose_anchors(sentences, images, 2)
    assert chosen.tolist() == [1, 2]
    assert added_classes.choose_anchors(sentences, images[:0], 2).tolist() == [0, 1]
    assert added_classes.choose_anchors(sentences, images, 9).tolist() == [1, 2, 0]


def test_a_saved_recognizer_is_equal(finished, recognizer, pictures, tmp_path):
    saved = tmp_path / "saved"
    recognizer.add_class("jade", SENTENCES).save(saved)
    again = vl_ltr_jax.load(saved)
    assert str(finished[1]) not in repr(again) and str(saved) in repr(again)
    for each in (again, recognizer):
        each.add_class("teal", SENTENCES[1:])
    assert again.card == recognizer.card
    np.testing.assert_array_equal(
        again.probabilities(pictures), recognizer.probabilities(pictures)
    )
    assert again.explain(pictures[:2]) == recognizer.explain(pictures[:2])
    with pytest.raises(UserError, match="saved"):
        again.save(saved)


def test_a_directory_without_a_finished_run_is_refused(tmp_path):
    for directory in (tmp_path / "absent", tmp_path):
        with pytest.raises(ArtifactError, match=str(directory)):
            vl_ltr_jax.load(directory)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "classes.json").write_text('{"names": ["a"], "train_counts": [1]}')
    with pytest.raises(ArtifactError, match="'evaluate'"):
        vl_ltr_jax.load(tmp_path)


@pytest.mark.parametrize(
    ("readme", "num_lines"),  # of pictures, and of sentences of the first
    [("README.md", 2), ("vl_ltr_jax/recognizer/README.md", 2 + 2)],
)
def test_the_example_of_the_readme_runs(
    finished, pictures, tmp_path, monkeypatch, capsys, readme, num_lines
):
    """Breaks if a public name changes."""
    text = (Path(__file__).parents[2] / readme).read_text()
    example = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[0]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "shapes_lt").symlink_to(finished[1])
    for name, image in zip(("one", "two"), pictures, strict=False):
        Image.open(image).save(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, readme, "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == num_lines
    assert vl_ltr_jax.load("runs/with_okapi").class_names[-1] == "okapi"


def test_the_page_of_a_run_shows_the_arrays_of_its_stages(
    finished, loaded, monkeypatch
):
    """Breaks if an array is not found, or pictures and names go apart."""
    workdir = epath.Path(finished[1])
    config = SavedRun(workdir).config
    mesh = meshes.make_mesh(config.mesh.data, config.mesh.model)
    run = Run(config, workdir, run_inputs.read(config), mesh)
    results = json.loads((workdir / "results.json").read_text())
    page.write(run, results)
    html = (workdir / page.NAME).read_text()
    assert '<section id="anchors">' in html and '<section id="learning">' in html
    explained = page._explained(run, page.rankings(run), loaded)
    labels, classes = (evaluated(workdir, name) for name in ("labels", "classes"))
    for picture, label, explanation in explained:
        assert loaded.predict(picture)[0].classes == explanation.prediction.classes
        assert explanation.prediction.classes[0] in classes[labels == label, 0]

    def refuse(workdir):
        raise ArtifactError("no head")

    monkeypatch.setattr(load, "from_run", refuse)
    page.write(run, results)
    assert '<section id="predictions">' in html
    assert '<section id="predictions">' not in (workdir / page.NAME).read_text()

"""Anchors of classes that lack images or sentences."""

import numpy as np

from vl_ltr_jax.config import build as configs
from vl_ltr_jax.method import anss
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.stages import anchors
from worlds import image_world
from worlds.image_world import run


def without_lines(path, word):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if word not in line))


def test_a_class_without_candidates_takes_its_prompts_and_the_report_says_so(
    tmp_path, monkeypatch
):
    """Breaks when such a class does not take its first sentences, or when seven
    sentences a call change a score."""
    monkeypatch.setattr(anchors, "SENTENCES_PER_CALL", 7)
    root = image_world.write(tmp_path / "world")
    without_lines(root / "world_val.txt", "moss")
    with open(root / "wiki" / "desc_0.txt", "a") as file:
        file.write("It is a warm colour. It is a deep colour.\n")
    config = image_world.configure(root)
    config.pretrain.epochs = config.finetune.epochs = 0
    config.evaluate.zero_shot_text = "anchors"
    inputs = run_inputs.read(configs.from_config_dict(config))
    counts = inputs.corpus.counts
    config.anchors.num_anchors = int(counts[0])
    results = run(config, tmp_path / "run")
    summary = results["anchors"]
    assert summary["without_images"] == ["moss"]
    assert summary["with_fewer_sentences"] == ["azure", "moss"]
    assert summary["num_anchors"] == counts[0] > counts[1]
    text = (tmp_path / "run" / "report.md").read_text()
    assert "(moss)" in text and "(azure, moss)" in text
    indices = np.load(tmp_path / "run" / "anchors" / "indices.npy")
    padding = np.load(tmp_path / "run" / "anchors" / "padding.npy")
    chosen = indices[2][~padding[2]]
    np.testing.assert_array_equal(chosen, np.arange(chosen[0], chosen[0] + len(chosen)))

    arrays = {
        name: np.load(tmp_path / "run" / f"{name}.npy")
        for name in ("embed/sentences", "embed/images", "embed/image_labels")
    }
    expected = anss.score_sentences(
        arrays["embed/sentences"],
        inputs.corpus.labels,
        arrays["embed/images"],
        arrays["embed/image_labels"],
        inputs.clip["params"]["logit_scale"],
    )
    scores = np.load(tmp_path / "run" / "anchors" / "scores.npy")
    assert len(scores) % 7
    np.testing.assert_allclose(scores, expected, rtol=1e-5)

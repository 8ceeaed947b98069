"""The frozen CLIP embeds each sentence once, outside the step."""

import dataclasses

import jax
import numpy as np
import pytest
from etils import epath

from vl_ltr_jax.config import build as configs
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.stages import pretrain
from worlds import image_world


@pytest.fixture
def run(tmp_path):
    root = image_world.write(tmp_path / "world")
    config = configs.from_config_dict(image_world.configure(root))
    return Run(config, epath.Path(tmp_path / "run"), run_inputs.read(config))


def counted(run, monkeypatch):
    """Returns a list that grows with each embedding of the corpus."""
    calls, embed = [], run.embed_sentences

    def count(variables, what):
        calls.append(1)
        return embed(variables, what)

    monkeypatch.setattr(run, "embed_sentences", count)
    return calls


def test_the_corpus_is_embedded_once_for_each_tower_and_text(run, monkeypatch):
    """Breaks if a restart embeds again, or if other weights or sentences get the
    embeddings of these."""
    calls = counted(run, monkeypatch)
    clip = run.initial_towers()
    first = pretrain.sentence_embeddings(run, clip)
    again = pretrain.sentence_embeddings(run, clip)
    assert len(calls) == 1
    np.testing.assert_array_equal(first, again)

    other = jax.tree.map(lambda leaf: leaf, clip)
    norm = other["params"]["text"]["ln_final"]
    norm["bias"] = norm["bias"] + 1
    assert not np.array_equal(pretrain.sentence_embeddings(run, other), first)
    changed = run.inputs.tokens.copy()
    changed[0, 1] += 1
    run.inputs = dataclasses.replace(run.inputs, tokens=changed)
    assert not np.array_equal(pretrain.sentence_embeddings(run, clip), first)
    assert len(calls) == 3


@pytest.mark.parametrize("damage", ["cut", "other shape"])
def test_damaged_embeddings_are_replaced(run, monkeypatch, capsys, damage):
    calls = counted(run, monkeypatch)
    clip = run.initial_towers()
    first = np.array(pretrain.sentence_embeddings(run, clip))
    (path,) = (run.workdir / "teacher").glob("*.npy")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        with path.open("wb") as file:
            np.save(file, first[1:])
    capsys.readouterr()
    np.testing.assert_array_equal(pretrain.sentence_embeddings(run, clip), first)
    assert len(calls) == 2
    assert str(path) in capsys.readouterr().err


def test_the_teacher_is_a_table_over_all_devices_and_no_text_tower(run):
    teacher = pretrain.teacher(run)
    assert teacher.towers["params"].keys() == {"visual", "logit_scale"}
    rows = -(-len(run.inputs.tokens) // 8)
    shapes = {shard.data.shape for shard in teacher.texts.addressable_shards}
    assert shapes == {(rows, run.inputs.clip_config.embed_dim)}

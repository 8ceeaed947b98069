"""The systems of the paper's tables as runs, and one that is heavier than they are."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import linen as nn

from vl_ltr_jax import systems
from vl_ltr_jax.checkpoint.restore import load_params
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config import methods, settings
from vl_ltr_jax.report import write as report
from vl_ltr_jax.run import head_training
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run.depends import artifact
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.stages import pipeline
from vl_ltr_jax.systems import decoupled
from vl_ltr_jax.train import finetune, optim, stage
from worlds import image_world

CLASSIFIERS = ("ncm", "crt", "tau_normalized", "lws", "logit_adjustment_post_hoc")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return image_world.write(tmp_path_factory.mktemp("data") / "world")


def configure(root, method, **changes):
    """Returns a system's configuration; `changes` are those of a command line."""
    config = image_world.configure(root)
    config.pretrain.epochs, config.finetune.epochs = 0, 2
    config.pretrain.warmup_epochs = 0
    config.data.train_recipe, config.data.erase_probability = "none", 0.0
    config.classifier.epochs, config.classifier.global_batch_size = 3, 8
    config.classifier.scale_epochs = 2
    config.classifier.schedule, config.classifier.feature_views = "step", 1
    config.classifier.learning_rate = 1e-2
    config = image_world.change(config, method=method, **changes)
    explicit = [key.replace("__", ".") for key in changes]
    return configs.from_config_dict(config, explicit)


def run_all(config, workdir):
    inputs = run_inputs.read(config)
    run = Run(config, epath.Path(workdir), inputs)
    pipeline.check(config, run.workdir, inputs)
    results = pipeline.run(run)
    report.write(run, results, with_page=False)
    return results, run


def test_every_system_is_registered_under_its_name():
    assert methods.REGISTRY.keys() == systems.METHODS.keys()
    for name, recipe in systems.METHODS.items():
        assert name == recipe.name and methods.REGISTRY[name] is recipe
        assert all(hasattr(settings.Rebalance(), key) for key in recipe.reads)
        assert ("classifier" in recipe.stages()) == (name in CLASSIFIERS)
    titles = {recipe.title for recipe in systems.METHODS.values()}
    assert len(titles) == len(systems.METHODS)


@pytest.fixture(scope="module")
def decoupled_runs(root, tmp_path_factory):
    """Every classifier on one and the same fine-tuning."""
    base = tmp_path_factory.mktemp("runs")
    run_all(configure(root, "baseline"), base / "baseline")
    runs = {}
    for method in CLASSIFIERS:
        (base / method).mkdir()
        finetuned = base / "baseline" / "finetune"
        (base / method / "finetune").symlink_to(finetuned)
        runs[method] = run_all(configure(root, method), base / method)
    return runs


@pytest.mark.parametrize("method", CLASSIFIERS)
def test_a_classifier_is_measured_with_the_baseline(root, decoupled_runs, method):
    """Breaks if a classifier's fine-tuning is not the Baseline's to the last bit, or
    if evaluation runs before the classifier is made."""
    results, run = decoupled_runs[method]
    assert results["test"].keys() == {"fc", method}
    assert results["cost"]["stages"].keys() == {"finetune", "classifier", "evaluate"}
    title = systems.RECIPES[method].title
    assert f"| {title} | ViT-tiny |" in (run.workdir / "report.md").read_text()
    assert {"images", "sentences"}.isdisjoint(p.name for p in run.workdir.iterdir())
    image_world.check_loaded(root, run.workdir)


@pytest.mark.parametrize(("method", "epochs"), [("crt", 3), ("lws", 2)])
def test_an_epoch_is_the_size_of_the_training_set(decoupled_runs, method, epochs):
    """Breaks if it is the largest count times the classes, or keeps its remainder."""
    costs = decoupled_runs[method][0]["cost"]["stages"]  # 36 images in batches of 8
    assert costs["classifier"]["images_seen"] == epochs * 32
    assert costs["finetune"]["images_seen"] == 2 * 32


def kernels_and_biases(run):
    """Returns those of the Baseline, then those of the classifier."""
    fc = load_params(run.workdir / "finetune" / "checkpoints")["params"]["head"]
    arrays = [run.artifact("classifier").load_array(n) for n in ("kernel", "bias")]
    return fc["visual_fc"]["kernel"], fc["visual_fc"]["bias"], *arrays


def test_lws_scales_weights_and_biases_alike_and_nothing_else(decoupled_runs):
    """Breaks if the FC trains as well, or its bias is left out or not scaled."""
    kernel, bias, scaled, scaled_bias = kernels_and_biases(decoupled_runs["lws"][1])
    scales = scaled / kernel
    np.testing.assert_allclose(scales, scales[:1].repeat(len(scales), 0), rtol=1e-5)
    np.testing.assert_allclose(scaled_bias, bias * scales[0], rtol=1e-5)
    assert (1e-3 < np.abs(scales[0] - 1)).all() and (np.abs(scales[0] - 1) < 0.5).all()


def test_crt_starts_from_new_weights(decoupled_runs):
    before, _, after, _ = kernels_and_biases(decoupled_runs["crt"][1])
    lengths = [np.linalg.norm(kernel, axis=0) for kernel in (before, after)]
    assert (np.sum(before * after, axis=0) / np.prod(lengths, axis=0) < 0.7).all()


def test_features_and_images_train_the_same_classifier(root, tmp_path):
    """Breaks if the classifier's images go through other towers than its features."""
    heads = []
    for views in (0, 1):
        changes = {"classifier__feature_views": views}
        changes["finetune__train_image_tower"] = False
        run = run_all(configure(root, "crt", **changes), tmp_path / str(views))[1]
        heads.append(run.artifact("classifier").load_array("kernel"))
    scale = np.abs(heads[0]).max()
    np.testing.assert_allclose(heads[1], heads[0], rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize(
    "method", ["cb_focal", "ldam_drw", "balanced_softmax", "logit_adjustment"]
)
def test_a_loss_of_the_counts_trains(root, tmp_path, method):
    frozen = {"train_image_tower": False, "feature_views": 1, "learning_rate": 0.1}
    changes = {f"finetune__{key}": value for key, value in frozen.items()}
    results, _ = run_all(configure(root, method, **changes), tmp_path)
    assert results["test"].keys() == {"fc"}
    assert results["test"]["fc"]["top1"] > 60  # of three colours
    assert results["cost"]["stages"].keys() == {"finetune", "evaluate"}
    image_world.check_loaded(root, tmp_path)


def test_stages_are_shared_exactly_by_equal_systems(root, tmp_path):
    """Logit adjustment with tau 1 is balanced softmax; with another tau it is not."""

    def settings_of(name, stage="finetune", **changes):
        values = {f"rebalance__{key}": value for key, value in changes.items()}
        config = configure(root, name, **values)
        inputs = run_inputs.read(config)
        return artifact(config, epath.Path(tmp_path), stage, inputs).settings

    trained = [n for n in systems.METHODS if not n.startswith("zero_shot")]
    finetuned = {name: settings_of(name) for name in trained}
    baseline = finetuned["baseline"]
    assert all(finetuned[name] == baseline for name in CLASSIFIERS)
    assert finetuned["logit_adjustment"] == finetuned["balanced_softmax"]
    assert finetuned["knn"] == finetuned["vl_ltr"]
    names = {"vl_ltr", "baseline", "cb_focal", "ldam_drw", "balanced_softmax"}
    assert {values["method"] for values in finetuned.values()} == names
    tau = {"logit_adjustment_tau": 1.5}
    assert settings_of("logit_adjustment", **tau)["method"] == "logit_adjustment"
    post_hoc = "logit_adjustment_post_hoc"
    assert settings_of(post_hoc, **tau) == baseline  # the loss does not read tau
    classifier = settings_of(post_hoc, "classifier", **tau)
    assert classifier["rebalance.logit_adjustment_tau"] == 1.5
    changed = settings_of("cb_focal", class_balanced_beta=0.5)
    assert changed != finetuned["cb_focal"]


def test_zero_shot_by_one_prompt_is_that_prompt(root, tmp_path):
    """Breaks if the one prompt is not 'a photo of a NAME.', or not the class's own."""
    _, run = run_all(configure(root, "zero_shot_prompt"), tmp_path)
    sentences = run.artifact("embed").load_array("sentences")
    texts = run.inputs.corpus.sentences
    rows = [n for n, text in enumerate(texts) if text.startswith("a photo of a ")]
    assert len(rows) == 3
    prompts = sentences[rows]
    unit = prompts / np.linalg.norm(prompts, axis=1, keepdims=True)
    np.testing.assert_allclose(run.class_texts(sentences), unit, rtol=1e-5, atol=1e-7)
    image_world.check_loaded(root, tmp_path)


def test_a_classifier_that_would_not_train_is_refused(root):
    with pytest.raises(configs.ConfigError, match="classifier.epochs=0"):
        configure(root, "lws", classifier__epochs=0)


class TwoExperts(nn.Module):
    """Two linear experts on the same features."""

    num_classes: int

    @nn.compact
    def __call__(self, features):
        experts = [nn.Dense(self.num_classes, name=f"visual_{n}") for n in "ab"]
        return jnp.stack([expert(features) for expert in experts])


class Heavy(systems.Recipe):
    """All that the heavier systems need, as small as can be.

    Two experts, a momentum copy of them and a queue of features in the state. A stage
    looks at the test images without their labels; its weights score.
    """

    title, result = "Heavy", "heavy"

    def stages(self):
        finetune = head_training.TrainingStage(self.train)
        return {"finetune": finetune, "test_time": self.weigh}

    def train(self, run):
        options, head = run.config.finetune, TwoExperts(run.inputs.num_classes)
        plan = head_training.plan_of(run, options)
        width = run.inputs.clip_config.embed_dim
        params = head.init(jax.random.key(0), np.zeros((1, width), np.float32))
        params = jax.tree.map(np.asarray, params["params"])
        towers = run.towers()

        def step(optimizer, frozen, state, batch):
            features = run.encode_image(frozen, batch["image"])
            targets = jax.nn.one_hot(batch["label"], run.inputs.num_classes)

            def loss(params):
                rows = head.apply({"params": params}, features)
                return sum(finetune.cross_entropy(r, targets, state.step) for r in rows)

            total, gradients = jax.value_and_grad(loss)(state.params)
            updates, opt_state = optimizer.update(
                gradients, state.opt_state, state.params
            )
            extra = state.batch_stats
            momentum = jax.tree.map(
                lambda old, new: 0.9 * old + 0.1 * new, extra["momentum"], state.params
            )
            queue = jnp.concatenate([features, extra["queue"]])[:16]
            return dataclasses.replace(
                state,
                step=state.step + 1,
                params=jax.tree.map(jnp.add, state.params, updates),
                opt_state=opt_state,
                batch_stats={"momentum": momentum, "queue": queue},
            ), {"loss/total": total}

        extra = {"momentum": params, "queue": np.zeros((16, width), np.float32)}
        return stage.Job(
            plan,
            lambda optimizer: functools.partial(step, optimizer),
            optim.make_optimizer(params, schedule=plan.schedule, weight_decay=0.0),
            lambda: run.place(towers),
            {"params": params, "batch_stats": extra},
            head_training.batches_of(run, options, with_text=False),
            run.artifact("finetune").directory,
        )

    def weigh(self, run):
        state = load_params(run.artifact("finetune").directory / "checkpoints")
        features, _ = decoupled.embed_split(run, run.towers(), run.inputs.data.test)
        head = TwoExperts(run.inputs.num_classes)
        scores = head.apply({"params": state["batch_stats"]["momentum"]}, features)
        weights = np.asarray(jax.nn.softmax(jnp.std(scores, axis=(1, 2))))
        run.artifact("test_time").save_arrays(weights=weights)
        return {"queue": float(np.abs(state["batch_stats"]["queue"]).min())}

    def scorer(self, run):
        state = load_params(run.artifact("finetune").directory / "checkpoints")
        weights = run.artifact("test_time").load_array("weights")
        head = TwoExperts(run.inputs.num_classes)

        def score(arrays, pixels, features):
            experts = head.apply({"params": arrays["experts"]}, features)
            return {"heavy": jnp.einsum("e,ebc->bc", arrays["weights"], experts)}

        return {"experts": state["params"], "weights": weights}, score

    def head(self, run, towers):
        return None


def test_a_heavier_system_fits_without_touching_the_loop(root, tmp_path, monkeypatch):
    monkeypatch.setitem(systems.METHODS, "baseline", Heavy())
    config = configure(root, "vl_ltr", evaluate__knn=False, evaluate__zero_shot=False)
    values = {"method": "baseline", "finetune.head": "fc"}
    config = settings.changed(config, {**values, "finetune.learning_rate": 1e-2})
    results, run = run_all(config, tmp_path)
    assert results["test"].keys() == {"heavy"}
    assert results["test"]["heavy"]["top1"] > 50
    # 64 images have passed a queue of 16.
    assert run.artifact("test_time").summary()["queue"] > 0

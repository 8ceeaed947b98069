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
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.stages import pipeline
from vl_ltr_jax.systems import decoupled
from vl_ltr_jax.train import finetune, optim, stage
from worlds import image_world

CLASSIFIERS = ("ncm", "crt", "tau_normalized", "lws", "logit_adjustment_post_hoc")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return image_world.write(tmp_path_factory.mktemp("data") / "world")


def configure(root, method, **changes):
    config = image_world.configure(root)
    config.pretrain.epochs, config.finetune.epochs = 0, 2
    config.pretrain.warmup_epochs = 0
    config.data.train_recipe, config.data.erase_probability = "none", 0.0
    config.classifier.epochs, config.classifier.global_batch_size = 3, 8
    config.classifier.scale_epochs = 2
    config.classifier.schedule, config.classifier.feature_views = "step", 1
    config.classifier.learning_rate = 1e-2
    config = systems.configure(config, method)
    return configs.from_config_dict(image_world.change(config, **changes))


def make_run(config, workdir):
    return Run(config, epath.Path(workdir), run_inputs.read(config), meshes.make_mesh())


def run_all(config, workdir):
    workdir, inputs = epath.Path(workdir), run_inputs.read(config)
    pipeline.check(config, workdir, inputs)
    results = pipeline.run(Run(config, workdir, inputs))
    run = Run(config, workdir, inputs, meshes.make_mesh())
    report.write(run, results, with_page=False)
    return results


def test_the_methods_of_the_settings_are_the_recipes():
    assert set(settings.Method.__args__) == set(systems.METHODS)
    assert all(name == recipe.name for name, recipe in systems.METHODS.items())
    decoupled = {
        name
        for name, recipe in systems.METHODS.items()
        if "classifier" in recipe.stages()
    }
    assert decoupled == set(methods.DECOUPLED) == set(CLASSIFIERS)
    assert {n for n in decoupled if systems.METHODS[n].trains} == set(methods.RETRAINED)
    titles = [method.title for method in systems.METHODS.values()]
    assert len(set(titles)) == len(titles)


@pytest.fixture(scope="module")
def decoupled_runs(root, tmp_path_factory):
    """Every classifier on one and the same fine-tuning."""
    base = tmp_path_factory.mktemp("runs")
    run_all(configure(root, "baseline"), base / "baseline")
    found = {}
    for method in CLASSIFIERS:
        config = configure(root, method)
        workdir = base / method
        workdir.mkdir()
        (workdir / "finetune").symlink_to(base / "baseline" / "finetune")
        found[method] = (config, workdir, run_all(config, workdir))
    return found


@pytest.mark.parametrize("method", CLASSIFIERS)
def test_a_classifier_is_measured_beside_the_baseline(root, decoupled_runs, method):
    """Breaks if a classifier's fine-tuning is not the Baseline's to the last bit, or
    if evaluation runs before the classifier is made."""
    config, workdir, results = decoupled_runs[method]
    workdir = epath.Path(workdir)
    assert results["test"].keys() == {"fc", method}
    assert results["cost"]["stages"].keys() == {"finetune", "classifier", "evaluate"}
    title = systems.RECIPES[method].title
    assert f"| {title} | ViT-tiny |" in (workdir / "report.md").read_text()
    assert {"images", "sentences"}.isdisjoint(p.name for p in workdir.iterdir())
    left = artifact(config, workdir, "classifier", run_inputs.read(config))
    assert left.load_array("kernel").shape[1] == 3
    image_world.check_loaded(root, workdir)


@pytest.mark.parametrize(("method", "epochs"), [("crt", 3), ("lws", 2)])
def test_an_epoch_is_the_size_of_the_training_set(decoupled_runs, method, epochs):
    """Breaks if it is the largest count times the classes, or keeps its remainder."""
    _, _, results = decoupled_runs[method]
    costs = results["cost"]["stages"]  # 36 images in batches of 8
    assert costs["classifier"]["images_seen"] == epochs * 32
    assert costs["finetune"]["images_seen"] == 2 * 32


def trained_head(decoupled_runs, method):
    _, workdir, _ = decoupled_runs[method]
    return load_params(workdir / "finetune" / "checkpoints")["params"]["head"][
        "visual_fc"
    ]


def arrays_of(decoupled_runs, method):
    _, workdir, _ = decoupled_runs[method]
    return {p.stem: np.load(p) for p in (workdir / "classifier").glob("*.npy")}


def test_lws_scales_weights_and_biases_alike_and_nothing_else(decoupled_runs):
    """Breaks if the FC trains as well, or its bias is left out or not scaled."""
    before = trained_head(decoupled_runs, "lws")
    after = arrays_of(decoupled_runs, "lws")
    scales = after["kernel"] / before["kernel"]
    np.testing.assert_allclose(scales, scales[:1].repeat(len(scales), 0), rtol=1e-5)
    np.testing.assert_allclose(after["bias"], before["bias"] * scales[0], rtol=1e-5)
    assert (np.abs(scales[0] - 1) > 1e-3).all()


def test_crt_starts_anew(decoupled_runs):
    before = trained_head(decoupled_runs, "crt")
    after = arrays_of(decoupled_runs, "crt")
    cosine = np.sum(before["kernel"] * after["kernel"], axis=0) / (
        np.linalg.norm(before["kernel"], axis=0)
        * np.linalg.norm(after["kernel"], axis=0)
    )
    assert (cosine < 0.7).all()


def test_tau_normalisation_has_no_bias(decoupled_runs):
    before = trained_head(decoupled_runs, "tau_normalized")
    after = arrays_of(decoupled_runs, "tau_normalized")
    config, workdir, _ = decoupled_runs["tau_normalized"]
    left = artifact(config, epath.Path(workdir), "classifier", run_inputs.read(config))
    tau = left.summary()["tau"]
    lengths = np.linalg.norm(before["kernel"], axis=0)
    np.testing.assert_allclose(
        after["kernel"], before["kernel"] / lengths**tau, rtol=1e-5
    )
    assert not after["bias"].any()


def test_post_hoc_adjustment_moves_biases_by_the_log_priors(decoupled_runs):
    before = trained_head(decoupled_runs, "logit_adjustment_post_hoc")
    after = arrays_of(decoupled_runs, "logit_adjustment_post_hoc")
    np.testing.assert_array_equal(after["kernel"], before["kernel"])
    priors = np.array(image_world.COUNTS["train"]) / 36
    expected = before["bias"] - np.log(priors)
    np.testing.assert_allclose(after["bias"], expected, rtol=1e-5, atol=1e-6)


def test_features_and_pictures_train_the_same_classifier(root, tmp_path):
    """Breaks if the classifier's pictures go through other towers than its features."""
    heads = []
    for views in (0, 1):
        config = configure(
            root,
            "crt",
            classifier__feature_views=views,
            finetune__train_image_tower=False,
        )
        run_all(config, tmp_path / str(views))
        left = artifact(
            config,
            epath.Path(tmp_path / str(views)),
            "classifier",
            run_inputs.read(config),
        )
        heads.append(left.load_array("kernel"))
    scale = np.abs(heads[0]).max()
    np.testing.assert_allclose(heads[1], heads[0], rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize(
    "method", ["cb_focal", "ldam_drw", "balanced_softmax", "logit_adjustment"]
)
def test_a_loss_of_the_counts_trains(root, tmp_path, method):
    frozen = {
        "finetune__train_image_tower": False,
        "finetune__feature_views": 1,
        "finetune__learning_rate": 0.1,
    }
    results = run_all(configure(root, method, **frozen), tmp_path)
    assert results["test"].keys() == {"fc"}
    assert results["test"]["fc"]["top1"] > 60  # of three colours
    assert results["cost"]["stages"].keys() == {"finetune", "evaluate"}
    image_world.check_loaded(root, tmp_path)


def test_losses_of_the_counts_share_nothing_but_what_is_equal(root, tmp_path):
    """Logit adjustment with tau 1 is balanced softmax; with another tau it is not."""
    inputs = run_inputs.read(configure(root, "baseline"))
    made = {
        name: artifact(configure(root, name), epath.Path(tmp_path), "finetune", inputs)
        for name in systems.METHODS
        if not name.startswith("zero_shot")
    }
    groups = {name: found.settings["method"] for name, found in made.items()}
    for name in CLASSIFIERS:
        assert made[name].settings == made["baseline"].settings
    assert groups["logit_adjustment"] == groups["balanced_softmax"]
    other = configure(root, "logit_adjustment", rebalance__logit_adjustment_tau=1.5)
    kept = artifact(other, epath.Path(tmp_path), "finetune", inputs).settings
    assert kept["method"] == "logit_adjustment"
    assert set(groups.values()) == {
        *("vl_ltr", "baseline", "cb_focal", "ldam_drw", "balanced_softmax")
    }
    assert made["knn"].settings == made["vl_ltr"].settings
    post_hoc = configure(
        root, "logit_adjustment_post_hoc", rebalance__logit_adjustment_tau=1.5
    )
    kept = artifact(post_hoc, epath.Path(tmp_path), "finetune", inputs).settings
    assert kept == made["baseline"].settings  # the loss does not read tau
    kept = artifact(post_hoc, epath.Path(tmp_path), "classifier", inputs).settings
    assert kept["rebalance.logit_adjustment_tau"] == 1.5
    beta = configure(root, "cb_focal", rebalance__class_balanced_beta=0.5)
    kept = artifact(beta, epath.Path(tmp_path), "finetune", inputs).settings
    assert kept != made["cb_focal"].settings


def test_zero_shot_by_one_prompt_is_that_prompt(root, tmp_path):
    """Breaks if the one prompt is not 'a photo of a NAME.', or not the class's own."""
    config = configure(root, "zero_shot_prompt")
    run_all(config, tmp_path)
    run = make_run(config, tmp_path)
    sentences = run.artifact("embed").load_array("sentences")
    rows = [
        index
        for index, sentence in enumerate(run.inputs.corpus.sentences)
        if sentence.startswith("a photo of a ")
    ]
    assert len(rows) == 3
    chosen = sentences[rows]
    unit = chosen / np.linalg.norm(chosen, axis=1, keepdims=True)
    np.testing.assert_allclose(run.class_texts(sentences), unit, rtol=1e-5, atol=1e-7)
    image_world.check_loaded(root, tmp_path)


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        ("cb_focal", {"finetune__mixup_alpha": 0.8}, "finetune.mixup_alpha=0.8"),
        ("ldam_drw", {"finetune__label_smoothing": 0.1}, "label_smoothing=0.1"),
        ("crt", {"finetune__head": "lgr"}, "method='crt' needs finetune.head='fc'"),
        ("ncm", {"finetune__epochs": 0, "evaluate__knn": True}, "finetune.epochs"),
        ("crt", {"classifier__epochs": 0}, "classifier.epochs=0"),
        ("lws", {"classifier__epochs": 0}, "classifier.epochs=0"),
        ("lws", {"classifier__scale_epochs": 7}, "scale_epochs=7: .*classifier.epochs"),
        ("lws", {"classifier__scale_learning_rate": 0.1}, "classifier.learning_rate"),
        ("baseline", {"pretrain__epochs": 2}, "pretrain.epochs=2: it has no"),
        ("zero_shot_prompt", {"evaluate__zero_shot_text": "sentences"}, "'prompt'"),
    ],
)
def test_what_contradicts_a_method_is_named(root, method, changes, words):
    with pytest.raises(configs.ConfigError, match=words):
        systems.check(configure(root, method, **changes))


class TwoExperts(nn.Module):
    """Two linear experts on the same features."""

    num_classes: int

    @nn.compact
    def __call__(self, features):
        experts = [nn.Dense(self.num_classes, name=f"visual_{n}") for n in "ab"]
        return jnp.stack([expert(features) for expert in experts])


class Heavy(systems.Recipe):
    """All that the heavier systems need, as small as can be: two experts, a momentum
    copy of them and a queue of features in the state, a stage that looks at the test
    pictures without their labels, and scores by its weights."""

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
        optimizer = optim.make_optimizer(
            params, schedule=plan.schedule, weight_decay=0.0
        )
        towers = run.towers()

        def step(optimizer, frozen, state, batch):
            features = run.encode_image(frozen, batch["image"])
            targets = jax.nn.one_hot(batch["label"], run.inputs.num_classes)

            def loss(params):
                logits = head.apply({"params": params}, features)
                return sum(
                    finetune.cross_entropy(one, targets, state.step) for one in logits
                )

            total, gradients = jax.value_and_grad(loss)(state.params)
            updates, opt_state = optimizer.update(
                gradients, state.opt_state, state.params
            )
            moved = jax.tree.map(
                lambda old, new: 0.9 * old + 0.1 * new,
                state.batch_stats["momentum"],
                state.params,
            )
            queue = jnp.concatenate([features, state.batch_stats["queue"]])[:16]
            return dataclasses.replace(
                state,
                step=state.step + 1,
                params=jax.tree.map(jnp.add, state.params, updates),
                opt_state=opt_state,
                batch_stats={"momentum": moved, "queue": queue},
            ), {"loss/total": total}

        kept = {"momentum": params, "queue": np.zeros((16, width), np.float32)}
        return stage.Job(
            plan,
            lambda optimizer: functools.partial(step, optimizer),
            optimizer,
            lambda: run.place(towers),
            {"params": params, "batch_stats": kept},
            head_training.batches_of(run, options, with_text=False),
            run.artifact("finetune").directory,
        )

    def weigh(self, run):
        state = load_params(run.artifact("finetune").directory / "checkpoints")
        features, _ = decoupled.embed_split(run, run.towers(), run.inputs.data.test)
        head = TwoExperts(run.inputs.num_classes)
        both = head.apply({"params": state["batch_stats"]["momentum"]}, features)
        weights = np.asarray(jax.nn.softmax(jnp.std(both, axis=(1, 2))))
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
    config = dataclasses.replace(config, method="baseline")
    config = systems.recipe.change(
        config, finetune={"head": "fc", "learning_rate": 1e-2}
    )
    results = run_all(config, tmp_path)
    assert results["test"].keys() == {"heavy"}
    assert results["test"]["heavy"]["top1"] > 50
    left = artifact(config, epath.Path(tmp_path), "test_time", run_inputs.read(config))
    assert left.summary()["queue"] > 0  # 64 images have passed a queue of 16

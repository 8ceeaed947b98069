"""The losses of pre-training: the authors' numbers and the paper's formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vl_ltr_jax.method import losses
from worlds.golden import LOSS_CASES, LOSS_FORMS, LOSSES, close

INPUTS, UNIT = ("img_feat", "txt_feat", "logit_scale"), ("img_emb", "txt_emb")


def total_loss(logits, teacher_logits, labels, setting):
    contrastive, parts = losses.classwise_contrastive(
        logits, labels, label_smoothing=setting["smoothing"]
    )
    terms = {"ce_image": parts["image"], "ce_text": parts["text"]}
    if not setting["beta"]:
        return contrastive, terms
    distillation, parts = losses.distillation(
        logits,
        teacher_logits,
        form=LOSS_FORMS[setting["distill_type"]],
        temperature=setting["tau"],
    )
    terms |= {"distill": distillation}
    terms |= {"distill_image": parts["image"], "distill_text": parts["text"]}
    beta = setting["beta"]
    return (1 - beta) * contrastive + beta * distillation, terms


@pytest.mark.parametrize("case", [case["case"] for case in LOSS_CASES["cases"]])
@pytest.mark.parametrize("setting", LOSS_CASES["settings"], ids=lambda s: s["name"])
def test_matches_vl_ltr(case, setting):
    """Value, every term and every gradient, of their float32 and their float64 run.

    Breaks when smoothing spreads over B - 1 entries, when a row's target is not divided
    by its positives, when 'kl' divides by B or forgets the squared temperature, or when
    the scale is not exponentiated (each moves a value by more than 1e-2).
    """

    def get(name):
        return jnp.asarray(LOSSES[0][f"{case}/{name}"])

    labels = get("labels").astype(jnp.int32)
    teacher = losses.contrastive_logits(
        get("t_img_feat"), get("t_txt_feat"), get("teacher_logit_scale")
    )
    close(teacher, get("teacher_logits_per_image"))
    student = losses.contrastive_logits(*(get(name) for name in INPUTS))
    close(student, get("logits_per_image"))

    def from_features(image, text, scale):
        logits = losses.contrastive_logits(image, text, scale)
        return total_loss(logits, teacher, labels, setting)

    def from_unit(image, text):
        logits = jnp.exp(get("logit_scale")) * image @ text.T
        return total_loss(logits, teacher, labels, setting)[0]

    (total, terms), gradients = jax.value_and_grad(
        from_features, argnums=(0, 1, 2), has_aux=True
    )(*(get(name) for name in INPUTS))
    gradients += jax.grad(from_unit, argnums=(0, 1))(get("img_emb"), get("txt_emb"))
    for golden in LOSSES:
        prefix = f"{case}/{setting['name']}"
        close(total, golden[f"{prefix}/total"])
        for name, term in terms.items():
            close(term, golden[f"{prefix}/{name}"])
        for name, gradient in zip((*INPUTS, *UNIT), gradients, strict=True):
            close(gradient, golden[f"{prefix}/grad_{name}"], 1e-4)


def test_images_of_one_class_are_mutual_positives():
    logits = jnp.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 1.0]])
    _, terms = losses.classwise_contrastive(
        logits, jnp.array([4, 4, 1]), label_smoothing=0.0, reduction="sum"
    )
    log_p = np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
    expected = -(log_p[0, :2].mean() + log_p[1, :2].mean() + log_p[2, 2]) / 3
    close(terms["image"], expected)


def test_diagonal_distillation_is_the_formula_of_the_paper():
    """Breaks when the teacher's weight is dropped or a direction is transposed."""
    student, teacher = jax.random.normal(jax.random.key(1), (2, 4, 4))
    value, terms = losses.distillation(
        student, teacher, form="diagonal", reduction="sum"
    )
    s, t = np.exp(student), np.exp(teacher)
    weight, target = np.diag(t) / t.sum(1), np.diag(s) / s.sum(1)
    close(terms["image"], -np.mean(weight * np.log(target)))
    weight, target = np.diag(t) / t.sum(0), np.diag(s) / s.sum(0)
    close(terms["text"], -np.mean(weight * np.log(target)))
    close(value, terms["image"] + terms["text"])


def test_unknown_forms_are_refused():
    student = jnp.eye(3)
    with pytest.raises(ValueError, match="ful"):
        losses.distillation(student, student, form="ful")
    with pytest.raises(ValueError, match="sums"):
        losses.distillation(student, student, reduction="sums")


def test_no_gradient_reaches_the_teacher():
    student, teacher = jax.random.normal(jax.random.key(2), (2, 3, 3))
    gradient = jax.grad(lambda t: losses.distillation(student, t)[0])
    assert not np.any(gradient(teacher))


def test_zero_embeddings_keep_gradients_finite():
    gradient = jax.grad(lambda x: losses.unit(x).sum())(jnp.zeros((2, 3)))
    assert np.all(np.isfinite(gradient))

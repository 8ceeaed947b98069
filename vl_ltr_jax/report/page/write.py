"""The page of a run, from what its stages have left."""

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

import jax

from vl_ltr_jax import systems
from vl_ltr_jax.data.images.decode import ImageReadError
from vl_ltr_jax.evaluate.accuracy import Ranking
from vl_ltr_jax.logs import console, event_files
from vl_ltr_jax.recognizer import load
from vl_ltr_jax.recognizer.recognizer import Recognizer
from vl_ltr_jax.report.page import gather, pictures
from vl_ltr_jax.report.page.learning import Curves
from vl_ltr_jax.report.page.render import render
from vl_ltr_jax.report.page.sentences import Selection
from vl_ltr_jax.run.anchors import Anchors
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.stages import evaluate
from vl_ltr_jax.storage.artifact import write_whole
from vl_ltr_jax.systems import titles

NAME = "report.html"


def write(run: Run, results: Mapping[str, Any]) -> None:
    """Writes `workdir/report.html`; to be called on every process.

    Args:
      run: all of whose stages are finished.
      results: as in results.json.
    """
    recognizer = _recognizer(run)  # a checkpoint is read by all processes together
    if jax.process_index() == 0:
        write_whole(run.workdir / NAME, page(run, results, recognizer))


def page(run: Run, results: Mapping[str, Any], recognizer: Recognizer | None) -> str:
    """The page as HTML.

    Args:
      run: all of whose stages are finished.
      results: as in results.json.
      recognizer: of the run; without one no prediction is explained.
    """
    recipe, inputs = systems.recipe_of(run.config), run.inputs
    ranked = _rankings(run)
    content = gather.gather(
        results=results,
        configuration=dataclasses.asdict(run.config),
        method=gather.Method(
            recipe.title,
            titles.own_head(run.config, results["test"]),
            titles.head_names(run.config),
        ),
        class_names=inputs.data.class_names,
        train_counts=inputs.data.train_counts,
        ranked=ranked,
        curves=_curves(run, results),
        selection=_selection(run) if "anchors" in results["cost"]["stages"] else None,
        explained=_explained(run, ranked, recognizer) if recognizer else [],
        made_on=datetime.date.today().isoformat(),
    )
    return render(content)


def _recognizer(run: Run) -> Recognizer | None:
    try:
        return load.load(run.workdir)
    except UserError as error:  # a head that cannot be loaded
        console.warn(f"{NAME} explains no prediction: {error}")
        return None


def _curves(run: Run, results: Mapping[str, Any]) -> Curves:
    """What the training stages have logged."""
    return {
        stage: event_files.read_scalars(run.workdir / stage)
        for stage, cost in results["cost"]["stages"].items()
        if cost["images_seen"]
    }


def _rankings(run: Run) -> dict[str, Ranking]:
    """What evaluation has kept of each image; an older run kept nothing."""
    left = run.artifact("evaluate")
    return {
        split: Ranking(
            *(left.load_array(f"{split}_{name}") for name in evaluate.PREDICTIONS)
        )
        for split in gather.SPLITS
        if (left.directory / f"{split}_{evaluate.PREDICTIONS[-1]}.npy").exists()
    }


def _selection(run: Run) -> Selection:
    anchors, corpus = Anchors.load(run.workdir), run.inputs.corpus
    return Selection(
        corpus.sentences,
        corpus.labels,
        scores=run.artifact("anchors").load_array("scores"),
        indices=anchors.indices,
        padding=anchors.padding,
        name=run.config.anchors.selection,
    )


def _explained(
    run: Run, ranked: Mapping[str, Ranking], recognizer: Recognizer
) -> list[pictures.Explained]:
    """Pictures of the test split, or of validation, with explanations."""
    data = run.inputs.data
    split = next((s for s in gather.SPLITS if s in ranked), None)
    if split is None:
        return []
    images = getattr(data, split)
    chosen = pictures.choose(ranked[split], data.train_counts)
    try:
        opened = [images.read(int(index)) for index in chosen]
    except ImageReadError as error:  # it was there a moment ago
        console.warn(f"{NAME} explains no prediction: {error}")
        return []
    labels = ranked[split].labels[chosen].tolist()
    return list(zip(opened, labels, recognizer.explain(opened), strict=True))

"""The page of a run, from the files of its stages."""

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
from vl_ltr_jax.storage.artifact import write_whole
from vl_ltr_jax.systems import titles

NAME = "report.html"


def write(run: Run, results: Mapping[str, Any]) -> None:
    """Writes `workdir/report.html`; called by every process.

    Args:
      run: run with all stages finished.
      results: content of results.json.
    """
    recognizer = _recognizer(run)  # all processes read a checkpoint together
    if jax.process_index() != 0:
        return
    by_split = rankings(run)
    content = gather.gather(
        results=results,
        configuration=dataclasses.asdict(run.config),
        method=gather.Method(
            systems.recipe_of(run.config).title,
            titles.own_head(run.config, results["test"]),
            titles.head_names(run.config),
        ),
        class_names=run.inputs.data.class_names,
        train_counts=run.inputs.data.train_counts,
        rankings=by_split,
        curves=_curves(run, results),
        selection=_selection(run) if "anchors" in results["cost"]["stages"] else None,
        explained=_explained(run, by_split, recognizer) if recognizer else [],
        made_on=datetime.date.today().isoformat(),
    )
    write_whole(run.workdir / NAME, render(content))


def rankings(run: Run) -> dict[str, Ranking]:
    """Returns the rankings of `test` and `val` that evaluation wrote."""
    artifact = run.artifact("evaluate")
    return {
        split: Ranking(
            *(artifact.load_array(f"{split}_{name}") for name in Ranking._fields)
        )
        for split in gather.SPLITS
    }


def _recognizer(run: Run) -> Recognizer | None:
    try:
        return load.load(run.workdir)
    except UserError as error:  # a head that cannot be loaded
        console.warn(f"{NAME} explains no prediction: {error}")
        return None


def _curves(run: Run, results: Mapping[str, Any]) -> Curves:
    """Returns the scalars of the training stages."""
    return {
        stage: event_files.read_scalars(run.workdir / stage)
        for stage, cost in results["cost"]["stages"].items()
        if cost["images_seen"]
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
    run: Run, by_split: Mapping[str, Ranking], recognizer: Recognizer
) -> list[pictures.Explained]:
    """Returns pictures of the test split, or of validation, with explanations."""
    data = run.inputs.data
    split = next((s for s in gather.SPLITS if len(by_split[s].labels)), None)
    if split is None:
        return []
    images = getattr(data, split)
    chosen = pictures.choose(by_split[split], data.train_counts)
    try:
        opened = [images.read(int(index)) for index in chosen]
    except ImageReadError as error:  # deleted since the evaluation
        console.warn(f"{NAME} explains no prediction: {error}")
        return []
    labels = by_split[split].labels[chosen].tolist()
    return list(zip(opened, labels, recognizer.explain(opened), strict=True))

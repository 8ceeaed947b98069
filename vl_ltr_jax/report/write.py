"""The report of a run: TensorBoard's summary, `report.md` and `report.html`."""

import time
from collections.abc import Mapping
from typing import Any

import jax

from vl_ltr_jax.logs import console, messages
from vl_ltr_jax.logs.event_files import Logs
from vl_ltr_jax.report import dashboard, tables
from vl_ltr_jax.report.page import write as page
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run.anchors import load_texts
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.stages import evaluate
from vl_ltr_jax.storage.artifact import write_whole
from vl_ltr_jax.systems import titles


def write(run: Run, results: Mapping[str, Any], *, with_page: bool = True) -> None:
    """Writes the report from the artifacts of a run; to be called on every process.

    Args:
      run: all of whose stages are finished.
      results: as in results.json.
      with_page: False leaves `report.html` out.
    """
    _write_dashboard(run, results)
    if jax.process_index() == 0:
        text = tables.markdown(
            results,
            titles.title(run.config),
            run.config.model.backbone,
            titles.head_names(run.config),
        )
        write_whole(run.workdir / "report.md", text)
    if with_page:
        console.say("starts", stage=page.NAME)
        start = time.monotonic()
        page.write(run, results)
        duration = messages.format_duration(time.monotonic() - start)
        console.say(f"written in {duration}", stage=page.NAME)


def _write_dashboard(run: Run, results: Mapping[str, Any]) -> None:
    """Writes the event file of evaluation, in place of that of an earlier start."""
    if jax.process_index() != 0:
        return
    artifact = run.artifact("evaluate")
    for path in list(artifact.directory.glob("events.out.tfevents.*")):
        path.unlink()
    images = {
        split: {
            name: artifact.load_array(f"{split}_{name}")
            for name in evaluate.PREDICTIONS
        }
        for split in ("val", "test")
    }
    with Logs(artifact.directory) as logs:
        dashboard.write(
            logs,
            run.workdir,
            run.config,
            run.inputs.data,
            results,
            images,
            run_inputs.eval_transform(run.config),
            load_texts(run.workdir),
        )

"""The only writer of a run's report: event file, `report.md` and `report.html`."""

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
from vl_ltr_jax.storage.artifact import write_whole
from vl_ltr_jax.systems import titles


def write(run: Run, results: Mapping[str, Any], *, with_page: bool = True) -> None:
    """Writes the report from the artifacts of a run; called by every process.

    Args:
      run: run with all stages finished.
      results: content of results.json.
      with_page: False omits `report.html`.
    """
    if jax.process_index() == 0:
        _write_dashboard(run, results)
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
    """Writes the event file of evaluation; replaces that of an earlier start."""
    directory = run.artifact("evaluate").directory
    for path in list(directory.glob("events.out.tfevents.*")):
        path.unlink()
    with Logs(directory) as logs:
        dashboard.write(
            logs,
            run.workdir,
            run.config,
            run.inputs.data,
            results,
            page.rankings(run),
            run_inputs.eval_transform(run.config),
            load_texts(run.workdir),
        )

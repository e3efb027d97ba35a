"""The plan verb: what the run of a settings file would do; nothing is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raypipe.errors import RequestError
from raypipe.settings import DatasetSettings, EvaluateSettings, load, read_yaml


def plan_of(file: str, overrides: list[str]) -> tuple[str, dict[str, Any]]:
    """What would be done, as text and as data, by the kind of settings that the file holds.

    Raises:
        RequestError: settings of a kind that has no plan, or as the verb itself.
    """
    keys = read_yaml(Path(file).expanduser()).keys()
    if "eval_root" in keys or "benchmarks" in keys:
        from raypipe.evaluate.forecast import forecast, render_forecast

        result = forecast(load(EvaluateSettings, file, overrides))
        return render_forecast(result), result
    if "annotations" not in keys:
        remedy = "see datasets/ and jobs/evaluate.yaml for examples"
        raise RequestError(f"plan knows yamls of datasets and of evaluations, {file} is another kind", remedy)
    from raypipe.prepare.estimate import estimate, render

    result = estimate(load(DatasetSettings, file, overrides))
    return render(result), result

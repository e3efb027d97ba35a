"""What of a stage can be refused before its folder is begun: the model that it starts from, and its rates."""

from __future__ import annotations

from raypipe.errors import RequestError
from raypipe.settings import StageSettings


def check_start(settings: StageSettings) -> None:
    """Refuses what building the model would, as far as it shows without reading weights.

    Args:
        settings: with absolute paths.

    Raises:
        RequestError: no such model, an adapter without its base, a part that the model does not have, or no
            rate at all.
        ServiceError: the storage of the model refused.
    """
    from raypipe.model.describe import (
        model_family,
    )  # only a driver that starts a stage pays for the libraries
    from raypipe.model.families import family_named
    from raypipe.model.near import find_model

    start = settings.start
    remote = [path for path in (start.model, start.model_base) if path and "://" in path]
    if remote:
        for path in remote:
            find_model(path)
        return
    if start.parts is not None:
        family = family_named("video_llava")
    elif start.model is not None:
        family = model_family(start.model, start.model_base)
    else:
        family = family_named(start.family)
    family.check_parts(list(settings.rates))
    if not settings.rates and settings.lora is None:
        raise RequestError(
            "nothing learns: no part has a rate", f"set rates.PART=...: {', '.join(sorted(family.parts))}"
        )

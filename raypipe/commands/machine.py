"""The verbs that look before anything starts."""

from __future__ import annotations

from raypipe.cli import Request, show
from raypipe.errors import RequestError


def doctor(request: Request) -> int:
    from raypipe.doctor.run import doctor as run

    options = ["data_root", "datasets", "out", "eval_root", "judge"]
    root, datasets, out, eval_root, judge = (request.take(name) for name in options)
    request.nothing_left("doctor", options)
    if request.words:
        raise RequestError(f"doctor takes no word '{request.words[0]}'", "raypipe doctor [--data-root DIR]")
    if datasets and not root:
        raise RequestError("--datasets is of use with --data-root only", "name the tree: --data-root DIR")
    code, result, text = run(root, datasets, out, eval_root, judge)
    show(result, text, request.json)
    return code


def plan(request: Request) -> int:
    from raypipe.planning.plan import OPTIONS, plan_of, plan_of_run

    options = {name: request.take(name) for name in OPTIONS}
    for name, value in options.items():
        if value == "":
            raise RequestError(f"{name}= is empty", f"give {name} a value, or leave it out")
    if len(request.words) == 1 and not request.words[0].endswith((".yaml", ".yml")):
        made = plan_of_run(request.words[0], request.settings)
    else:
        made = plan_of(request.yaml() or "", request.settings, options)
    show(made.result, made.text, request.json)
    if made.refused is not None:
        raise made.refused
    return 0

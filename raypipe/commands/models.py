"""The verbs that take one model."""

from __future__ import annotations

from raypipe.cli import Request, show
from raypipe.commands.arguments import whole_number
from raypipe.errors import RequestError
from raypipe.settings import local


def ask(request: Request) -> int:
    from raypipe.evaluate.ask import ask as run

    model, base = request.need("model"), request.take("model_base")
    limit = whole_number("max_new_tokens", request.take("max_new_tokens", "128"))
    request.nothing_left("ask", ["model", "model_base", "max_new_tokens"])
    if len(request.words) != 2:
        raise RequestError(
            "ask takes a file and a question", 'raypipe ask --model M clip.mp4 "What happens?"'
        )
    answer = run(model, base, request.words[0], request.words[1], limit)
    show({"answer": answer, "file": request.words[0], "question": request.words[1]}, answer, request.json)
    return 0


def merge(request: Request) -> int:
    from raypipe.model.lora import merge as run

    adapter, layout = request.need("adapter"), request.take("layout", "hf") or "hf"
    base = request.need("model_base") if layout == "hf" else request.take("model_base")
    out = request.need("out")
    request.nothing_left("merge", ["adapter", "model_base", "out", "layout"])
    folder = run(adapter, base, local(out), layout)
    show({"model": str(folder)}, f"merged model in {folder}", request.json)
    return 0

"""The engine in this process: a model on the CPU or on one GPU.

What is shared is made once: the vision features of a medium and the keys and values of the prefix that its
questions have in common. Questions are answered in batches over them, also across media. A batch that does
not fit, or that fails in another way, is cut in halves, down to one question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from raypipe.errors import RequestError, ServiceError
from raypipe.evaluate.batches import Cuts, Span, planned
from raypipe.evaluate.certificate import Alone
from raypipe.evaluate.context import Context, TooLong
from raypipe.evaluate.engine import UNCUT, Reply, Shown, Split, Way
from raypipe.evaluate.greedy import Row, greedy
from raypipe.evaluate.prefix import Prefix, prefill, spliced
from raypipe.model.build import DTYPES, LoadedModel, load_model
from raypipe.model.pictures import is_ready, loaded
from raypipe.model.splice import features, whole
from raypipe.records import MediumKind
from raypipe.text.chat import ChatEncoder, ChatError

FAULTS = (RuntimeError, ValueError, IndexError, MemoryError)  # what a model or a device may say of a batch
NO_MEMORY = ("not enough memory", "out of memory", "ALLOC_FAILED")
SAID = 300  # characters of a reason


def load_engine(model: str, base: str | None, precision: str, batch: int) -> LocalEngine:
    """An engine for a model folder (see ``load_model``).

    Raises:
        RequestError: the folder holds no model, or not all of one.
    """
    return LocalEngine(load_model(model, base, precision), precision, batch)


class LocalEngine:
    """Generation on this process's device.

    An answer has at most ``Way.max_new_tokens`` tokens, and at most as many as the model's context has left
    after the prompt. A prompt that leaves no room for one token is not asked: its reply is a failed one.

    Args:
        precision: "fp32" or "bf16": of the weights. What a model keeps beside them, as the frequencies of its
            positions, stays as exact as it is.
        batch: the most questions at once.

    Raises:
        RequestError: a language model that does not look back at all tokens.
    """

    def __init__(self, model: LoadedModel, precision: str, batch: int) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = DTYPES[precision]
        layers = set(
            getattr(whole(model.model).config.text_config, "layer_types", None) or ["full_attention"]
        )
        if layers != {"full_attention"}:
            odd = ", ".join(sorted(layers - {"full_attention"}))
            raise RequestError(
                f"the language model has layers of {odd}; prefixes are shared over full ones only"
            )
        model.model.to(self.device).eval()
        for parameter in model.model.parameters():
            parameter.data = parameter.data.to(self.dtype)
        self.loaded, self.model, self._batch = model, whole(model.model), batch
        self.context = Context.of(self.model.config.text_config)

    def answer(
        self,
        shown: Sequence[Shown],
        way: Way,
        *,
        split: Split = UNCUT,
        on_split: Callable[[Split], None] | None = None,
    ) -> list[list[Reply]]:
        with torch.inference_mode():
            return _Call(self, shown, way, Cuts(split, self._batch, on_split)).answered()

    def alone(self, shown: Shown, prompt: str, way: Way) -> Alone:
        """The answer to one question at batch size one: its full prompt in transformers' own ``generate``."""
        try:
            with torch.inference_mode():
                return self._alone(shown, prompt, way)
        except (*FAULTS, OSError) as fault:
            return Alone(Reply("", 0, _said(fault)), ())

    def close(self) -> None:
        """Lets go of the model; the engine answers nothing after it."""
        del self.loaded, self.model
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def pixels(self, frames: Sequence[bytes], kind: MediumKind, aspect: str) -> torch.Tensor:
        """Pixels [N, 3, side, side] of one medium, of encoded frames or of ready ones (``model.pictures``).

        Raises:
            ValueError: another number of frames than the model takes.
        """
        expected = self.loaded.family.frames(self.model.config) if kind is MediumKind.VIDEO else 1
        if len(frames) != expected:
            raise ValueError(f"{len(frames)} frames for a model that takes {expected}")
        look = self.loaded.look(aspect)
        shown = loaded(look, frames) if is_ready(frames) else look.frames(frames, kind)
        return look.pixels(shown, self.dtype, self.device)

    def visual(self, kind: MediumKind, pixels: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Visual tokens [tokens, width] of some media of one kind, encoded together."""
        made = features(self.model, self.loaded.family, kind, torch.cat(list(pixels)))
        return list(made.reshape(len(pixels), -1, made.shape[-1]))

    def _alone(self, shown: Shown, prompt: str, way: Way) -> Alone:
        chat, kind, visual = self.loaded.chat(way.template), shown.kind, None
        ids = chat.prompt(prompt, (kind,) if kind else ())
        limit = self.context.room(len(ids), way.max_new_tokens)
        if kind:
            (visual,) = self.visual(kind, [self.pixels(shown.frames, kind, way.aspect)])
        embeds_LD, _ = spliced(self.model, self.loaded.family, ids, kind, visual)
        ends = self.ends(chat)
        out = self.model.generate(
            inputs_embeds=embeds_LD[None],
            attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=self.device),
            max_new_tokens=limit,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            eos_token_id=sorted(ends),
            pad_token_id=min(ends),
            return_dict_in_generate=True,
            output_logits=True,
        )
        made = out.sequences[0].tolist()
        tokens = tuple(made[:-1] if made[-1] in ends else made)
        best = torch.cat(out.logits).float().topk(2).values
        gaps = tuple((best[:, 0] - best[:, 1]).tolist())
        return Alone(Reply(chat.decode(tokens), len(tokens), "", tokens), gaps)

    def ends(self, chat: ChatEncoder) -> frozenset[int]:
        """The ids that end an answer: those of the generation config, and the template's own."""
        named = self.model.generation_config.eos_token_id
        if named is None:
            named = self.model.config.text_config.eos_token_id
        ids = named if isinstance(named, (list, tuple)) else [named]
        closing = chat.template.closing
        own = self.loaded.tokenizer.token_to_id(closing) if closing in chat.template.tokens else None
        return frozenset(i for i in (*ids, own) if i is not None)


@dataclass(frozen=True)
class _Fault:
    said: str
    memory: bool


class _Crowded(MemoryError):
    """A medium that does not fit beside the others of a batch."""


class _Call:
    """One call of ``answer``."""

    def __init__(self, engine: LocalEngine, shown: Sequence[Shown], way: Way, cuts: Cuts) -> None:
        self._engine, self._shown, self._way, self._cuts = engine, shown, way, cuts
        self._chat = engine.loaded.chat(way.template)
        self._ends = engine.ends(self._chat)
        self._limits: dict[tuple[int, int], int] = {}  # most tokens of an answer, by medium and question
        self._replies: list[list[Reply | None]] = [[None] * len(s.prompts) for s in shown]
        self._plan = planned([self._encoded(number, one) for number, one in enumerate(shown)])
        self._held: dict[int, Prefix] = {}
        self._lost: dict[int, str] = {}  # media that cannot be shown, and why

    def answered(self) -> list[list[Reply]]:
        todo = self._plan.batches(self._cuts.split)[::-1]
        while todo:
            begin, end = todo.pop()
            wanted = self._plan.media_of((begin, end))
            self._keep(range(wanted[0], len(self._plan.media)))  # those before it have no questions left
            fault = self._tried(partial(self._ask, (begin, end)))
            if fault is None:
                continue
            if end - begin == 1:
                self._fail(begin, fault.said)
                continue
            if fault.memory:
                self._keep(wanted)
            middle = (begin + end) // 2
            self._cuts.questions(middle)
            todo += [(middle, end), (begin, middle)]
        return [[r for r in replies if r is not None] for replies in self._replies]

    def _encoded(self, number: int, one: Shown) -> list[tuple[int, ...] | None]:
        """Ids of each prompt; None, and a reply that says why, for one that cannot be asked."""
        made: list[tuple[int, ...] | None] = []
        for place, prompt in enumerate(one.prompts):
            try:
                ids = self._chat.prompt(prompt, (one.kind,) if one.kind else ())
                self._limits[number, place] = self._engine.context.room(len(ids), self._way.max_new_tokens)
                made.append(ids)
            except (ChatError, TooLong) as fault:
                made.append(None)
                self._replies[number][place] = Reply("", 0, _said(fault))
        return made

    def _ask(self, span: Span) -> None:
        """Answers the questions of a span together, as far as their media can be shown."""
        self._ready(self._plan.media_of(span))
        places, rows = [], []
        for place in range(*span):
            asked = self._plan.asked[place]
            if asked.medium in self._lost:
                self._fail(place, self._lost[asked.medium])
                continue
            number = self._plan.media[asked.medium].place
            limit = self._limits[number, asked.place]
            places.append(place)
            rows.append(Row(asked.ids, self._shown[number].kind, self._held[asked.medium], limit))
        if not rows:
            return
        engine = self._engine
        made = greedy(engine.model, engine.loaded.family, rows, self._ends)
        for place, tokens in zip(places, made, strict=True):
            self._put(place, Reply(self._chat.decode(tokens), len(tokens), "", tuple(tokens)))

    def _ready(self, wanted: range) -> None:
        """Sees to it that the prefixes of some media are there; each group of media is made as a whole."""
        for group in self._plan.groups(self._cuts.split):
            if any(n in wanted and n not in self._held and n not in self._lost for n in range(*group)):
                self._make(group, wanted)

    def _make(self, group: Span, wanted: range) -> None:
        begin, end = group
        fault = self._tried(partial(self._prefixes, begin, end, wanted))
        if fault is None:
            return
        if end - begin > 1:
            middle = (begin + end) // 2
            self._cuts.media(middle)
            self._make((begin, middle), wanted)
            self._make((middle, end), wanted)
        elif fault.memory and len(wanted) > 1:
            raise _Crowded(fault.said)  # a smaller batch has fewer media beside it
        elif fault.memory and self._held:
            self._held.clear()
            self._make(group, wanted)
        else:
            self._lost[begin] = fault.said

    def _prefixes(self, begin: int, end: int, wanted: range) -> None:
        """Makes the prefixes of the media from ``begin`` to ``end`` and keeps those with questions left."""
        engine = self._engine
        pixels = {n: p for n in range(begin, end) if (p := self._pixels(n)) is not None}
        shown = [n for n in range(begin, end) if n not in self._lost]
        visual: dict[int, torch.Tensor] = {}
        for kind in MediumKind:
            mine = [n for n in pixels if self._shown_at(n).kind is kind]
            if mine:
                made = engine.visual(kind, [pixels[n] for n in mine])
                visual |= dict(zip(mine, made, strict=True))
        if not shown:
            return
        media = [self._plan.media[n] for n in shown]
        kinds, tokens = [self._shown_at(n).kind for n in shown], [visual.get(n) for n in shown]
        prefixes = prefill(engine.model, engine.loaded.family, [m.shared for m in media], kinds, tokens)
        self._held |= {n: p for n, p in zip(shown, prefixes, strict=True) if n >= wanted[0]}

    def _pixels(self, number: int) -> torch.Tensor | None:
        """Pixels of a medium; None without one, or where its frames are no good, which is noted."""
        one = self._shown_at(number)
        if one.kind is None or number in self._lost:
            return None
        try:
            return self._engine.pixels(one.frames, one.kind, self._way.aspect)
        except (ValueError, OSError) as fault:
            self._lost[number] = _said(fault)
            return None

    def _tried(self, work: Callable[[], None]) -> _Fault | None:
        """Does it, and says what went wrong; by then whatever was made for it is let go."""
        try:
            work()
            return None
        except FAULTS as raised:
            fault = _Fault(_said(raised), _is_memory(raised))
        if self._engine.device.type == "cuda":
            self._look_after(fault)
        return fault

    def _look_after(self, fault: _Fault) -> None:
        if fault.memory:
            torch.cuda.empty_cache()
            return
        try:
            torch.cuda.synchronize()
        except (
            RuntimeError
        ) as gone:  # of some faults a process does not recover: nothing more would be answered
            raise ServiceError(f"the GPU is lost: {fault.said}", "run the same command again") from gone

    def _shown_at(self, number: int) -> Shown:
        return self._shown[self._plan.media[number].place]

    def _keep(self, media: range) -> None:
        self._held = {n: prefix for n, prefix in self._held.items() if n in media}

    def _fail(self, place: int, said: str) -> None:
        self._put(place, Reply("", 0, said))

    def _put(self, place: int, reply: Reply) -> None:
        asked = self._plan.asked[place]
        self._replies[self._plan.media[asked.medium].place][asked.place] = reply


def _said(fault: BaseException) -> str:
    return (str(fault).strip() or type(fault).__name__)[:SAID]


def _is_memory(fault: BaseException) -> bool:
    if isinstance(fault, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(words in str(fault) for words in NO_MEMORY)

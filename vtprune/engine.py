"""Request -> Run: the same question answered twice, with all visual tokens and with the pruned ones."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vtprune import cost, methods
from vtprune.backbones.base import Backbone, Prompt
from vtprune.images import open_image
from vtprune.methods.base import Method
from vtprune.pipeline import FROM_LLM, Pass, tower_needs
from vtprune.record import Answer, Measured, Shared, with_seconds, written
from vtprune.request import Request, Source, check, check_context
from vtprune.types import (
    Budget,
    Done,
    Encoded,
    Event,
    Run,
    Selected,
    Shape,
    Step,
    Timing,
    Token,
    TokenOut,
)

MEASURED_STEPS = 16
"""Decoding steps of a measuring pass at most; time per token hardly changes after that."""


class Stopped(RuntimeError):
    """The run was asked to stop before it was complete."""


class Engine:
    """Runs requests on one model, one at a time; safe to share between threads."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone: Backbone | None = backbone
        self.name = backbone.name
        self._lock = threading.Lock()

    @property
    def backbone(self) -> Backbone:
        """The model. ValueError after `close`."""
        if self._backbone is None:
            raise ValueError(f"{self.name} is not loaded any more: another model takes its place.")
        return self._backbone

    def close(self) -> None:
        """Let the model go, when the run that goes on has ended; what waits for it gets a ValueError."""
        with self._lock:
            self._backbone = None

    def method(self, name: str, **params: Any) -> Method:
        """A method with these parameters, with what was found for this model where they are silent, and with
        what lets it do without the signals that this model cannot give."""
        given = {**self.backbone.defaults.get(name, {}), **params}
        made = methods.make(name, **given)
        for need in made.needs:
            if self.backbone.missing(need):
                given |= made.without(need)
        return methods.make(name, **given)

    def supports(self, method: str, **params: Any) -> str | None:
        """Why a method cannot run on this model, as a sentence, or None. ValueError on an unknown one."""
        methods.make(method, **params)
        shape = Shape(tokens=64, images=1, layers=self.backbone.layers)
        try:
            steps = self.method(method, **params).plan(Budget(1.0), shape)
        except ValueError as error:  # such as a layer that this model does not have
            return str(error)
        return self._obstacle(steps)

    def tokens(self, images: Sequence[Source]) -> int:
        """How many visual tokens these pictures are before pruning; does not wait for the model."""
        segments = self.backbone.segments([open_image(source) for source in images])
        return sum(segment.length for segment in segments)

    def run(
        self,
        images: Sequence[Source],
        question: str,
        method: str = "atp",
        keep: float | int = 0.25,
        max_new_tokens: int = 32,
        params: Mapping[str, Any] | None = None,
        *,
        positions: str = "original",
        seed: int = 0,
        repeats: int = 3,
        stop: threading.Event | None = None,
        **more: Any,
    ) -> Run:
        """Answer a question with and without pruning, and record everything.

        images: 1 .. max_images paths or pictures. method, params (or keywords): see list_methods(). keep: a
        fraction in (0, 1] or a count. positions: "original" keeps the position ids of the unpruned prompt,
        "renumber" closes the gaps. repeats: measuring passes after the first, which warms up; with 0 the
        timings are empty. Raises ValueError with one sentence for a request that cannot be served, Stopped
        when `stop` was set before the end.
        """
        events = self.stream(
            images,
            question,
            method,
            keep,
            max_new_tokens,
            params,
            positions=positions,
            seed=seed,
            repeats=repeats,
            stop=stop,
            **more,
        )
        for event in events:
            if isinstance(event, Done):
                return event.run
        raise Stopped("the run was stopped before it was complete.")

    def stream(
        self,
        images: Sequence[Source],
        question: str,
        method: str = "atp",
        keep: float | int = 0.25,
        max_new_tokens: int = 32,
        params: Mapping[str, Any] | None = None,
        *,
        positions: str = "original",
        seed: int = 0,
        repeats: int = 3,
        stop: threading.Event | None = None,
        **more: Any,
    ) -> Iterator[Event]:
        """The same as `run`, event by event: Encoded, Selected, Token of both sides in turn, Timing, Done.

        Errors in the request are raised here, before the first event. After `stop` is set the stream ends
        without Done. The model is locked from the first event until the stream ends or is closed.
        """
        request = check(
            self.backbone,
            images,
            question,
            method=method,
            params={**(params or {}), **more},
            keep=keep,
            max_new_tokens=max_new_tokens,
            positions=positions,
            seed=seed,
            repeats=repeats,
        )
        return self._locked(request, stop or threading.Event())

    def share(
        self,
        images: Sequence[Source],
        question: str,
        max_new_tokens: int = 32,
        *,
        later: Iterable[Method] = (),
        positions: str = "original",
        seed: int = 0,
        repeats: int = 3,
    ) -> Shared:
        """A question that many methods and budgets will be run on, with `again`; nothing is computed yet.

        later: methods to come, whose signals the vision tower gives in its one pass. Raises as `stream` does.
        """
        request = check(
            self.backbone,
            images,
            question,
            method="",
            params={},
            keep=1.0,
            max_new_tokens=max_new_tokens,
            positions=positions,
            seed=seed,
            repeats=repeats,
        )
        return Shared(request, frozenset(need for method in later for need in method.needs) - FROM_LLM)

    def again(
        self,
        shared: Shared,
        method: str,
        keep: float | int,
        params: Mapping[str, Any] | None = None,
        *,
        stop: threading.Event | None = None,
    ) -> Iterator[Event]:
        """The same as `stream`, with what earlier runs of the shared question left: the vision tower's
        output, the full answer, and with repeats=0 (where no time is told) the orders of nested methods. Both
        sides are measured anew, in turn, so that a machine that gets busy does not favour one."""
        request = shared.request.other(method, keep, params or {})
        return self._locked(request, stop or threading.Event(), shared)

    def _locked(
        self, request: Request, stop: threading.Event, shared: Shared | None = None
    ) -> Iterator[Event]:
        while not self._lock.acquire(timeout=0.1):
            if stop.is_set():
                return
        try:
            yield from self._events(request, stop, shared)
        finally:
            self._lock.release()

    def _events(self, request: Request, stop: threading.Event, shared: Shared | None) -> Iterator[Event]:
        backbone, given = self.backbone, shared is not None
        shared = shared or Shared(request)
        if shared.prompt is None:
            prompt = backbone.prepare(request.images, request.question)
            check_context(backbone, len(prompt.ids), request.max_new_tokens)
            shared.prompt = prompt
        prompt = shared.prompt
        steps, nested = self._plan(request, prompt)
        if not request.repeats:
            steps = shared.replayed(request, steps)
        if stop.is_set():
            return
        full = shared.full[0] if shared.full else self._pass(prompt, [], request)
        sides = {"full": full, "pruned": self._pass(prompt, steps, request)}
        # a reader may replay other budgets from a nested method's order; extra work, so never measured
        sides["pruned"].whole_order = nested and (given or request.repeats > 0)
        answers = yield from self._answer(sides, request, stop, shared)
        if stop.is_set():
            return
        measured = yield from self._measure_all(prompt, steps, request, answers, stop)
        if stop.is_set():
            return
        shared.full = full, answers["full"]
        if nested:
            shared.remember(request, sides["pruned"].stages, len(prompt.visual))
        yield Done(written(backbone, request, prompt, sides, answers, measured))

    def _answer(
        self, sides: dict[str, Pass], request: Request, stop: threading.Event, shared: Shared
    ) -> Generator[Event, None, dict[str, Answer]]:
        """Both answers: one pass through the encoder for the two of them, then tokens in turn."""
        backbone, prompt, pruned = self.backbone, sides["pruned"].prompt, sides["pruned"]
        needs = tower_needs(pruned.steps)
        if shared.encoded is None or not needs <= shared.needs:
            shared.needs |= needs
            shared.encoded = backbone.encode(prompt, shared.needs)
        encoded = shared.encoded
        yield Encoded(prompt.segments, request.infos)
        answers = {"full": shared.full[1] if shared.full else Answer(), "pruned": Answer()}
        decodings = {
            name: side.prefill(request.max_new_tokens, encoded)
            for name, side in sides.items()
            if not answers[name].ids
        }
        pruned.timer.switch(None)
        pruned.stages = with_seconds(pruned.stages, [pruned.timer.seconds()])
        for stage in pruned.stages:
            yield Selected(stage)
        while decodings:
            for name in list(decodings):
                if stop.is_set():
                    return answers
                token = self._next_token(decodings[name].logits, answers[name])
                yield Token("full" if name == "full" else "pruned", token)
                if token.id in backbone.eos or len(answers[name].ids) == request.max_new_tokens:
                    del decodings[name]
                else:
                    decodings[name].step(self._embed_one(token.id))
        return answers

    def _measure_all(
        self,
        prompt: Prompt,
        steps: Sequence[Step],
        request: Request,
        answers: dict[str, Answer],
        stop: threading.Event,
    ) -> Generator[Event, None, dict[str, Measured]]:
        """The measuring passes, the two sides in turn; each decodes as many tokens as the longer answer."""
        decoded = min(MEASURED_STEPS, max(len(answer.ids) for answer in answers.values()) - 1)
        measured = {name: Measured(max(decoded, 1)) for name in answers}
        for i in range(request.repeats):
            for name in ("full", "pruned") if i % 2 == 0 else ("pruned", "full"):
                if stop.is_set():
                    return measured
                self._measure(prompt, steps if name == "pruned" else [], request, measured[name])
            yield Timing(i + 1, request.repeats)
        return measured

    def _measure(self, prompt: Prompt, steps: Sequence[Step], request: Request, measured: Measured) -> None:
        cost.reset_peak(self.backbone.device)
        side = self._pass(prompt, steps, request)
        timer, decoding = side.timer, side.prefill(measured.decoded)
        timer.switch("decode")
        for _ in range(measured.decoded):
            decoding.step(self._embed_one(int(decoding.logits.argmax())))
        timer.switch(None)
        measured.passes.append(timer.seconds())
        measured.peak = max(measured.peak, cost.peak(self.backbone.device))

    def _plan(self, request: Request, prompt: Prompt) -> tuple[list[Step], bool]:
        """The steps of the request's method, and whether it is nested. ValueError when they cannot be run."""
        obstacle = self.supports(request.method, **request.params)  # before what is wrong with the budget
        if obstacle:
            raise ValueError(obstacle)
        made = self.method(request.method, **request.params)
        tokens, images = len(prompt.visual), len(request.images)
        budget = Budget(request.keep)
        steps = list(made.plan(budget, Shape(tokens, images, self.backbone.layers)))
        # a budget of everything is the unpruned pipeline itself, whatever the method
        everything = budget.count(tokens, images) == tokens
        return [] if everything else steps, made.facts["nested"]

    def _obstacle(self, steps: Sequence[Step]) -> str | None:
        """Why these steps cannot be run on this model, as a sentence, or None."""
        for step in steps:
            reason = self.backbone.refuses("llm" if isinstance(step.at, tuple) else step.at)
            if reason:
                return reason
            for need in step.needs:
                if need not in FROM_LLM:
                    reason = self.backbone.missing(need)
                elif not isinstance(step.at, tuple):
                    reason = f"{need} is only known inside the language model, where the method does not act."
                else:
                    reason = None
                if reason:
                    return reason
            if isinstance(step.at, tuple):
                k = step.at[1]
                if not 0 <= k < self.backbone.layers or k + step.layer_offset < 0:
                    return (
                        f"the method works at layer {k}{', reading the one before,' * -step.layer_offset} "
                        f"but {self.name} has layers 0 to {self.backbone.layers - 1}."
                    )
        return None

    def _pass(self, prompt: Prompt, steps: Sequence[Step], request: Request) -> Pass:
        timer = cost.Timer(self.backbone.device)
        return Pass(self.backbone, prompt, steps, timer, positions=request.positions, seed=request.seed)

    def _embed_one(self, token: int) -> Tensor:
        return self.backbone.embed(torch.tensor([token], device=self.backbone.device))[0]

    def _next_token(self, logits: Tensor, answer: Answer) -> TokenOut:
        """The likeliest token, added to the answer."""
        token = int(logits.argmax())
        answer.ids.append(token)
        answer.logits.append(logits)
        text = self.backbone.decode(answer.ids)
        piece = ""
        if not text.endswith("\ufffd"):  # half of a character that more than one token makes up
            piece, answer.text = text[len(answer.text) :], text
        probs, best = logits.softmax(-1).topk(min(5, len(logits)))
        top = [(self._name(i), p) for i, p in zip(best.tolist(), probs.tolist(), strict=True)]
        out = TokenOut(token, piece, top[0][1], top)
        answer.tokens.append(out)
        return out

    def _name(self, token: int) -> str:
        """Text of a token on its own; special tokens by their names."""
        return self.backbone.tokenizer.decode([token])

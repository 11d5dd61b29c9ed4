"""What every model family must hold, against transformers' own model: shared by the families' tests.

`Rig` is one tiny model: the engine under test, the same weights in transformers, and `inputs`, which makes
the keyword arguments of transformers' forward from images and a question without any code of vtprune's.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import picture
from PIL import Image, ImageDraw

import vtprune
from vtprune import methods
from vtprune.backbones import Prompt
from vtprune.cost import Timer
from vtprune.decoder import Decoding
from vtprune.engine import Engine
from vtprune.images import open_image
from vtprune.methods import base
from vtprune.pipeline import Pass
from vtprune.types import At, Signals, Step

QUESTION = "Which colour has the fish?"
FAST = {"max_new_tokens": 6, "repeats": 0}


@dataclass(frozen=True)
class Rig:
    engine: Engine
    model: Any
    inputs: Callable[[Sequence[Image.Image], str], dict[str, Any]]

    @property
    def backbone(self) -> Any:
        return self.engine.backbone

    @torch.inference_mode()
    def whole(self, images: Sequence[Image.Image]) -> tuple[torch.Tensor, ...]:
        """Logits [V] of transformers' forward, and what it gave to its own language model: embeddings [L, D],
        position ids [.., L], and what deepstack adds after the first layers [layers, L, D]."""
        seen: dict[str, Any] = {}
        language = language_of(self.model)
        hook = language.register_forward_pre_hook(lambda _, __, kwargs: seen.update(kwargs), with_kwargs=True)
        logits = self.model(**self.inputs(images, QUESTION)).logits[0, -1]
        hook.remove()
        embeds, positions = seen["inputs_embeds"][0], seen.get("position_ids")
        positions = torch.arange(len(embeds)) if positions is None else positions[..., 0, :]
        added = seen.get("deepstack_visual_embeds") or ()
        deep = torch.zeros(len(added), *embeds.shape)
        for mine, theirs in zip(deep, added, strict=True):
            mine[seen["visual_pos_masks"][0]] = theirs
        return logits.float(), embeds, positions, deep


def language_of(model: Any) -> Any:
    """The language model, without its head, inside one of transformers' models."""
    return getattr(model.model, "language_model", None) or model.model.text_model


@torch.inference_mode()
def language_logits(
    model: Any, embeds, positions, layer: int | None = None, hidden=(), deep=()
) -> torch.Tensor:
    """Logits [n, V] of transformers' language model on embeddings [n, D] and positions [n] or [3, n].

    From `layer` on nobody sees the columns `hidden`. deep: added after the first layers, each [m, D] to the
    first m tokens.
    """
    language, n = language_of(model), len(embeds)
    causal = torch.full((n, n), float("-inf")).triu(1)
    masked = causal.clone()
    masked[:, hidden] = float("-inf")
    masked[torch.arange(n), torch.arange(n)] = 0.0  # a row must see something
    rotation = language.rotary_emb(embeds[None], position_ids=positions.unsqueeze(-2))
    states = embeds[None]
    for k, block in enumerate(language.layers):
        mask = masked if layer is not None and k >= layer else causal
        states = block(states, attention_mask=mask[None, None], position_embeddings=rotation)
        for added in deep[k : k + 1]:
            states[0, : len(added)] += added
    return model.lm_head(language.norm(states))[0].float()


def silence(model: Any, *tokens: int) -> None:
    """Tokens that a random model shall not say, so that its answers do not end early."""
    with torch.no_grad():
        model.get_output_embeddings().weight[list(tokens)] = 0.0


def check_everything_is_the_model_itself(rig: Rig, images: Sequence[Image.Image], tokens: int = 32) -> None:
    """keep = 1: logits of the prefill and greedy tokens are those of transformers' forward and generate."""
    logits, _, positions, _ = rig.whole(images)
    prompt = check_the_full_side(rig, images, logits, tokens)
    assert torch.equal(prompt.positions, positions) and prompt.next_position == int(positions.max()) + 1


def check_sixteen_pictures(rig: Rig, method: str = "uniform") -> None:
    """With everything kept the logits are transformers' own, and each picture gets its share of a budget."""
    images = [picture(i, 40, 40) for i in range(16)]
    with torch.inference_mode():
        logits = rig.model(**rig.inputs(images, QUESTION)).logits[0, -1].float()
    assert (full_logits(rig, rig.backbone.prepare(images, QUESTION)) - logits).abs().max() <= 1e-5
    run = rig.engine.run(images, QUESTION, method, keep=0.2, max_new_tokens=2, repeats=0)
    (stage,) = run.stages
    assert len(stage.per_image) == 16 and min(stage.per_image) >= 1 and sum(stage.per_image) == stage.after


def check_the_full_side(
    rig: Rig, images: Sequence[Image.Image], logits: torch.Tensor, tokens: int = 32, method: str = "random"
) -> Prompt:
    """The same without a look at positions. logits [V]: of transformers' forward. Returns the prompt."""
    run = rig.engine.run(images, QUESTION, method, keep=1.0, max_new_tokens=tokens, repeats=0)
    assert run.stages == [] and run.pruned == run.full
    prompt = rig.backbone.prepare(images, QUESTION)
    inputs = rig.inputs(images, QUESTION)
    assert torch.equal(prompt.ids, inputs["input_ids"][0])
    assert (full_logits(rig, prompt) - logits).abs().max() <= 1e-5
    out = rig.model.generate(**inputs, do_sample=False, max_new_tokens=tokens)
    expected = out[0, len(prompt.ids) :].tolist()
    assert [t.id for t in run.full.tokens] == expected and len(expected) == tokens
    assert len(set(expected)) > 3, "a model that repeats one token proves little"
    return prompt


def full_logits(rig: Rig, prompt: Any) -> torch.Tensor:
    """[V]: after a prefill of everything."""
    return _decoding(rig, prompt).logits


def check_pruned_before_the_layers(
    rig: Rig, images: Sequence[Image.Image], method: str, keep: float, positions: str = "original"
) -> None:
    """Every token of a pruned answer is the likeliest after transformers ran on embeddings picked by hand."""
    run = rig.engine.run(images, QUESTION, method, keep=keep, positions=positions, **FAST)
    prompt = rig.backbone.prepare(images, QUESTION)
    _, embeds, where, deep = rig.whole(images)
    kept = run.stages[0].keep
    assert len(kept) == round(keep * len(prompt.visual)) < len(prompt.visual)
    places = torch.cat([prompt.text, prompt.visual[kept]]).sort().values
    where, following = where[..., places], int(where.max()) + 1
    if positions == "renumber":
        where = renumbered(where)
        following = int(where.max()) + 1
    _check_answer(rig, run, embeds[places], where, following, deep=deep[:, places])


def renumbered(where: torch.Tensor) -> torch.Tensor:
    """Positions [n] or [3, n] without the numbers that no token has on any axis."""
    known = sorted(set(where.flatten().tolist()))
    return torch.tensor([known.index(p) for p in where.flatten().tolist()]).view(where.shape)


def check_pruned_inside(rig: Rig, images: Sequence[Image.Image], keep: float, k: int = 2) -> None:
    """FastV: ranked by attention that eager transformers agrees with; as if the dropped could not be seen."""
    run = rig.engine.run(images, QUESTION, "fastv", keep=keep, k=k, **FAST)
    prompt = rig.backbone.prepare(images, QUESTION)
    _, embeds, where, deep = rig.whole(images)
    (stage,) = run.stages
    attention = eager_attention(rig, images, k - 1)[prompt.visual]
    dropped = torch.ones(len(prompt.visual), dtype=torch.bool)
    dropped[stage.keep] = False
    assert attention[~dropped].min() >= attention[dropped].max() - 1e-6 or len(set(images)) > 1
    scores = torch.zeros(len(prompt.visual))
    scores[stage.scored] = torch.tensor(stage.scores)
    assert torch.allclose(scores, attention, atol=1e-5)
    following = int(where.max()) + 1
    _check_answer(rig, run, embeds, where, following, layer=k, hidden=prompt.visual[dropped], deep=deep)


def eager_attention(rig: Rig, images: Sequence[Image.Image], layer: int) -> torch.Tensor:
    """[L]: what the last token pays in a layer, mean over heads."""
    rig.model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            outputs = rig.model(**rig.inputs(images, QUESTION), output_attentions=True)
    finally:
        rig.model.set_attn_implementation("sdpa")
    return outputs.attentions[layer][0, :, -1].mean(0)


def _check_answer(rig: Rig, run, embeds, where, following: int, **options: Any) -> None:
    ids = torch.tensor([t.id for t in run.pruned.tokens])
    said = rig.model.get_input_embeddings()(ids[:-1])
    after = (following + torch.arange(len(said))).expand(*where.shape[:-1], -1)
    logits = language_logits(rig.model, torch.cat([embeds, said]), torch.cat([where, after], -1), **options)[
        len(embeds) - 1 :
    ]
    assert logits.argmax(-1).tolist() == ids.tolist()
    probs = torch.tensor([t.prob for t in run.pruned.tokens])
    assert torch.allclose(probs, logits.softmax(-1).amax(-1), atol=1e-5)


def changes(rig: Rig, image: Image.Image) -> torch.Tensor:
    """[N]: how much each token differs from that of a black picture."""
    black = Image.new("RGB", image.size)
    seen = [rig.backbone.encode(rig.backbone.prepare([one], "what?")).features for one in (image, black)]
    return (seen[0] - seen[1]).norm(dim=1)


def check_geometry(rig: Rig, size: tuple[int, int], share: float = 0.5) -> int:
    """A bright cell in a black picture changes, in every segment, the token most whose box holds it.

    Cells are the middles of some tokens' boxes; the pictures come from files that EXIF turns. Returns how
    many were tried.
    """
    segments = rig.backbone.prepare([Image.new("RGB", size)], "what?").segments
    tried = 0
    for segment in segments:
        boxes = segment.boxes
        assert (
            (boxes >= 0).all() and (boxes[:, [0, 2]] <= size[0]).all() and (boxes[:, [1, 3]] <= size[1]).all()
        )
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        whole = [i for i in range(segment.length) if area[i] > 0.9 * area.max()]  # not a sliver at the border
        for token in (whole[0], whole[len(whole) // 3], whole[-1]):
            image = Image.new("RGB", size)
            cell = middle(boxes[token], share)
            ImageDraw.Draw(image).rectangle(cell, fill="white")
            found = changes(rig, turned(image))[segment.start : segment.stop]
            assert int(found.argmax()) == token, (size, segment.grid, token, cell)
            tried += 1
    return tried


def turned(image: Image.Image) -> Image.Image:
    """The same picture out of a file that holds it lying on its side, and says so."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    image.transpose(Image.Transpose.ROTATE_90).save(file, "png", exif=exif)
    opened = open_image(Image.open(file))
    assert opened.size == image.size
    return opened


def middle(box: torch.Tensor, share: float = 0.5) -> tuple[int, int, int, int]:
    """The middle of a box as whole pixels, at least one."""
    x0, y0, x1, y1 = box.tolist()
    dx, dy = (x1 - x0) * (1 - share) / 2, (y1 - y0) * (1 - share) / 2
    left, top = int(x0 + dx), int(y0 + dy)
    return left, top, max(left, int(x1 - dx) - 1), max(top, int(y1 - dy) - 1)


def facts(run: Any) -> Any:
    """What must not depend on anything but the request; timings may."""
    sides = [(s.answer, s.tokens, s.cost) for s in (run.full, run.pruned)]
    return sides, [dataclasses.replace(s, seconds=0) for s in run.stages], run.comparison


def check_order_does_not_matter(
    rig: Rig,
    a: Sequence[Image.Image],
    b: Sequence[Image.Image],
    method: str = "divprune",
) -> None:
    """A, B, A: the first and the last are identical. Two answers decoded in turn are those decoded alone."""

    def ask(images: Sequence[Image.Image], method: str) -> Any:
        return facts(rig.engine.run(images, QUESTION, method, keep=0.8, **FAST))

    first = ask(a, method)
    ask(b, method)
    assert ask(a, method) == first

    prompts = [rig.backbone.prepare(images, QUESTION) for images in (a, b)]
    alone = [_greedy(rig, _decoding(rig, prompt)) for prompt in prompts]
    turns = [_greedy(rig, decoding) for decoding in [_decoding(rig, prompt) for prompt in prompts]]
    together = list(islice(zip(*turns, strict=True), 8))
    assert together == list(zip(*(list(islice(ids, 8)) for ids in alone), strict=True))


def _decoding(rig: Rig, prompt: Any) -> Decoding:
    return Pass(rig.backbone, prompt, [], Timer(rig.backbone.device)).prefill(8)


def _greedy(rig: Rig, decoding: Decoding) -> Iterator[int]:
    while True:
        token = int(decoding.logits.argmax())
        yield token
        decoding.step(rig.backbone.embed(torch.tensor([token]))[0])


def hooks(rig: Rig) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return sum(len(getattr(m, kind)) for m in rig.backbone.model.modules() for kind in kinds)


def check_errors_leave_nothing_behind(
    rig: Rig,
    image: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
    needs: tuple[str, ...] = (),
    method: str = "uniform",
    places: Sequence[At] = ("vision", "projected", ("llm", 1)),
) -> None:
    """A selector raises at every place; afterwards there is no hook, and answers are what they were."""
    monkeypatch.setattr(base, "_registry", dict(base._registry))

    def ask() -> Any:
        return facts(rig.engine.run([image], QUESTION, method, **FAST))

    def fail(signals: Signals, keep: int) -> Any:
        raise RuntimeError("no")

    before = ask()
    for at in places:
        steps = [Step(at, 5, fail, ("attention",) if isinstance(at, tuple) else needs)]
        name = f"failing {at}"
        custom = type(f"Failing{at}", (base.Method,), {"plan": lambda self, budget, shape, s=steps: s})
        base.register(name)(dataclasses.dataclass(frozen=True)(custom))
        with pytest.raises(RuntimeError, match="no"):
            rig.engine.run([image], QUESTION, name)
    assert hooks(rig) == 0 and ask() == before


def check_saliency_without_cls(folder: Path, images: Sequence[Image.Image]) -> None:
    """ATP, and E-AdaPrune around it, read the attention that each token receives where there is no CLS token.
    The folder has a companion."""
    engine = vtprune.load(folder)
    backbone = engine.backbone
    run = engine.run(images, QUESTION, "atp", keep=0.3, alpha=0.4, **FAST)
    prompt = backbone.prepare(images, QUESTION)
    encoded = backbone.encode(prompt, ("received_attention",))
    patches, text, sign = backbone.clip(prompt, encoded)
    cosine = sign * (patches @ text.mean(0))

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return (x - x.min()) / (x.max() - x.min())

    (stage,) = run.stages
    for image, count in enumerate(stage.per_image):
        own = [n for s in prompt.segments if s.image == image for n in range(s.start, s.stop)]
        received = encoded.signals["received_attention"][own]
        score = 0.4 * scaled(cosine[own]) + 0.6 * scaled(received)
        best = {own[i] for i in score.topk(count).indices.tolist()}
        assert best == set(stage.keep) & set(own) and 0 < count < len(own)
    adaptive = engine.run(images, QUESTION, "e_adaprune", keep=0.3, base_params={"alpha": 0.4}, **FAST)
    assert adaptive.stages[0].info and adaptive.stages[0].keep
    for method, params in (("atp", {"attention": "cls"}), ("e_adaprune", {"base": "fastervlm"})):
        assert "no CLS token" in (engine.supports(method, **params) or "")


def check_pruned_before_a_resampler(
    rig: Rig,
    images: Sequence[Image.Image],
    method: str,
    keep: float,
    reference: Callable[[Prompt, Sequence[int], torch.Tensor], torch.Tensor],
) -> None:
    """Every token of a pruned answer is the likeliest by `reference`(prompt, kept visual tokens, ids of the
    answer so far), the logits [n, V] of transformers' own parts, called by hand."""
    run = rig.engine.run(images, QUESTION, method, keep=keep, **FAST)
    (stage,) = run.stages
    assert len(stage.keep) == round(keep * run.tokens) == run.pruned.cost.visual_tokens < run.tokens
    ids = torch.tensor([t.id for t in run.pruned.tokens])
    with torch.inference_mode():
        prompt = rig.backbone.prepare(images, QUESTION)
        logits = reference(prompt, stage.keep, ids[:-1])[-len(ids) :]
    assert logits.argmax(-1).tolist() == ids.tolist()
    probs = torch.tensor([t.prob for t in run.pruned.tokens])
    assert torch.allclose(probs, logits.softmax(-1).amax(-1), atol=1e-5)
    assert abs(run.pruned.tokens[0].prob - run.full.tokens[0].prob) > 1e-5, "the model must be looking"


def check_half_precision_selects_alike(
    folder: Path, images: Sequence[Image.Image], method: str, keep: int
) -> None:
    """A selection in either half precision is that from float32 copies of the same features and signals."""
    for dtype in (torch.bfloat16, torch.float16):
        engine = vtprune.load(folder, dtype=dtype)
        run = engine.run(images, QUESTION, method, keep=keep, **FAST)
        prompt = engine.backbone.prepare(images, QUESTION)
        encoded = engine.backbone.encode(prompt, methods.make(method).needs)
        features = encoded.features
        assert f"torch.{run.dtype}" == str(dtype) == str(features.dtype)
        assert all(signal.dtype == torch.float32 for signal in encoded.signals.values())
        if methods.list_methods()[method].acts_at == "projected":
            features = engine.backbone.project(features)
        signals = Signals(features.float(), prompt.segments, **encoded.signals)
        assert methods.select(method, signals, keep).keep.tolist() == run.stages[0].keep

"""Is the pipeline itself fast? Measured against transformers doing the same work, side by side."""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import Any

import torch
from PIL import Image

from vtprune import methods
from vtprune.bench.measure import ratio, seconds
from vtprune.cost import Timer, spread
from vtprune.engine import Engine
from vtprune.pipeline import Pass
from vtprune.types import Budget, Shape

QUESTION = "What is to the left of the red house?"


def bench_engine(
    engine: Engine,
    image: Image.Image | None = None,
    question: str = QUESTION,
    *,
    new_tokens: int = 16,
    keep: float = 0.1,
    method: str = "uniform",
    repeats: int = 9,
) -> dict[str, Any]:
    """Times of this pipeline and of transformers for the same work, in one run, taking turns.

    generate: image and prompt to `new_tokens` tokens with everything kept, against `model.generate` (greedy,
    end-of-answer tokens ignored on both sides). short: the prefill after pruning to `keep`, against
    transformers' own prefill of a prompt that really is that short. The pictures are decoded and cut to size
    beforehand. Returns {"generate" | "short": {"ours", "transformers": Spread in ms as dict, "ratio": the
    same of ours / transformers, round by round}, …}; a warm-up round is not counted.
    """
    backbone, device = engine.backbone, engine.backbone.device
    prompt = backbone.prepare([image or _picture()], question)
    tokens = len(prompt.visual)
    steps = methods.make(method).plan(Budget(keep), Shape(tokens, 1, backbone.layers))
    config = copy.deepcopy(backbone.model.generation_config)
    # an end mark that no token is; None would be filled in from the model's own settings
    nowhere = backbone.llm.config.vocab_size
    config.update(do_sample=False, max_new_tokens=new_tokens, eos_token_id=nowhere, num_beams=1)

    def ours() -> None:
        decoding = Pass(backbone, prompt, [], Timer(device)).prefill(new_tokens)
        for _ in range(new_tokens - 1):
            token = decoding.logits.argmax(keepdim=True)
            decoding.step(backbone.embed(token)[0])
        int(decoding.logits.argmax())

    def theirs() -> None:
        ids = prompt.ids[None]
        out = backbone.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=prompt.pixels.to(backbone.dtype),
            generation_config=config,
        )
        assert out.shape[1] == ids.shape[1] + new_tokens, "generate ended early: this is not the same work"

    pruned = Pass(backbone, prompt, steps, Timer(device)).prefill(0)
    length = pruned.lengths[-1]
    embeds = backbone.embed(prompt.ids[-1:]).expand(1, length, -1).contiguous()

    @torch.inference_mode()
    def short() -> None:
        out = backbone.model.model.language_model(inputs_embeds=embeds, use_cache=True)
        backbone.model.lm_head(out.last_hidden_state[:, -1:])

    def after_pruning() -> float:
        timer = Timer(device)
        Pass(backbone, prompt, steps, timer).prefill(0)
        timer.switch(None)
        return timer.seconds()["prefill"]

    rows: dict[str, list[float]] = {"ours": [], "theirs": [], "after": [], "short": []}
    for _ in range(repeats + 1):
        rows["ours"].append(seconds(ours, device))
        rows["theirs"].append(seconds(theirs, device))
        rows["after"].append(after_pruning())
        rows["short"].append(seconds(short, device))

    def pair(mine: str, other: str) -> dict[str, Any]:
        a, b = rows[mine][1:], rows[other][1:]
        return {"ours": asdict(spread(a)), "transformers": asdict(spread(b)), "ratio": asdict(ratio(a, b))}

    return {
        "model": engine.name,
        "device": str(device),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "prompt_tokens": len(prompt.ids),
        "visual_tokens": tokens,
        "new_tokens": new_tokens,
        "short_tokens": length,
        "keep": keep,
        "generate": pair("ours", "theirs"),
        "short": pair("after", "short"),
    }


def table(result: dict[str, Any]) -> str:
    """The result of bench_engine for a terminal."""
    lines = [
        f"{result['model']} on {result['device']}, {result['dtype']}, {result['threads']} threads: "
        f"{result['prompt_tokens']} prompt tokens, {result['visual_tokens']} of them visual",
        f"{'median (lowest to highest)':34}{'vtprune ms':>24}{'transformers ms':>24}{'ratio':>22}",
    ]
    names = {
        "generate": f"everything kept, {result['new_tokens']} new tokens",
        "short": f"prefill of {result['short_tokens']} tokens",
    }
    for key, name in names.items():
        cells = [_cell(result[key][column], places) for column, places in (("ours", 1), ("transformers", 1))]
        lines.append(f"{name:34}{cells[0]:>24}{cells[1]:>24}{_cell(result[key]['ratio'], 2):>22}")
    return "\n".join(lines)


def _cell(value: dict[str, Any], places: int) -> str:
    return f"{value['median']:.{places}f} ({value['low']:.{places}f} to {value['high']:.{places}f})"


def _picture() -> Image.Image:
    """A smooth gradient; what it shows does not matter to the time it takes."""
    ramp = Image.linear_gradient("L").resize((448, 448))
    return Image.merge("RGB", (ramp, ramp.rotate(90), ramp.rotate(180)))

"""What stands beside the weights of a published repository, family by family, around a tiny model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from conftest import wake
from published_configs import Config
from published_tokenizers import CHATML, bytes_of, sentences_of, smol_turn, turn
from tokenizers import Tokenizer

_MEAN, _STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
_CLIP = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": _MEAN,
    "image_std": _STD,
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
}
_VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
_TEXT = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}
_PINPOINTS = [[40, 80], [80, 40], [80, 80], [120, 40], [40, 120]]


@dataclass(frozen=True)
class Form:
    """What a folder is made of. changes: of its published config. files: name -> content of other .json
    files. waken: makes a random model see. silent: tokens that it never says."""

    changes: Config
    tokenizer: Tokenizer
    files: dict[str, Config]
    waken: Callable[[Any], None]
    silent: Sequence[int]


def _decoder(tokenizer: Tokenizer, marks: Sequence[str]) -> Config:
    """added_tokens_decoder of a tokenizer_config.json."""
    rest = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {str(tokenizer.token_to_id(mark)): {"content": mark, **rest} for mark in marks}


def _seeing(tower: str, std: float = 0.25) -> Callable[[Any], None]:
    """Larger weights for a tower: the default scale leaves it almost blind."""

    def waken(model: Any) -> None:
        for part, weight in model.named_parameters():
            if part.startswith(tower) and weight.dim() > 1:
                weight.normal_(std=0.02 if "out_proj" in part else std)

    return waken


def _llava(config: Config) -> Form:
    tokenizer = sentences_of(["<image>", "<pad>"])
    size, is_next = tokenizer.get_vocab_size(), "image_grid_pinpoints" in config
    image, name = size - 2, "LlavaNext" if is_next else "Llava"
    text = {**_TEXT, "vocab_size": size + 20}  # padded beyond the tokenizer's, as published
    vision = {**_VISION, "image_size": 40, "patch_size": 8}
    ids = {"image_token_index": image, "pad_token_id": image + 1, "vocab_size": size + 20}
    changes = {"text_config": text, "vision_config": vision, **ids}
    pixels = {
        **_CLIP,
        "crop_size": {"height": 40, "width": 40},
        "do_center_crop": True,
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": f"{name}Processor",
        "size": {"shortest_edge": 40},
    }
    if is_next:
        own = {"aspect_ratio_setting": "anyres", "do_pad": True, "image_grid_pinpoints": _PINPOINTS}
        pixels |= {**own, "image_processor_type": "LlavaNextImageProcessor"}
        changes["image_grid_pinpoints"] = _PINPOINTS
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    ask = ("[INST] ", " [/INST]") if config["text_config"]["model_type"] == "mistral" else None
    files = {
        "preprocessor_config": pixels,
        "processor_config": {
            "image_token": "<image>",
            "num_additional_image_tokens": 1,
            "patch_size": 8,
            "processor_class": f"{name}Processor",
            "vision_feature_select_strategy": "default",
        },
        "chat_template": {"chat_template": turn(*(ask or ("USER: ", " ASSISTANT:")))},
        "special_tokens_map": special,
        "tokenizer_config": {
            "add_bos_token": True,
            "add_eos_token": False,
            "added_tokens_decoder": _decoder(tokenizer, ["<unk>", "<s>", "</s>", "<image>", "<pad>"]),
            **special,
            "legacy": False,
            "model_max_length": 1000000000000000019884624838656,
            "padding_side": "left",
            "processor_class": f"{name}Processor",
            "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer",
            "use_default_system_prompt": False,
        },
        "generation_config": {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2},
    }
    return Form(changes, tokenizer, files, lambda model: wake(model, 0.25), [2])


def _qwen(config: Config) -> Form:
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    marks += [
        f"<|{name}|>" for name in ("vision_start", "vision_end", "vision_pad", "image_pad", "video_pad")
    ]
    tokenizer = bytes_of(marks)
    number = tokenizer.token_to_id
    ids = {f"{what}_token_id": number(f"<|vision_{what[7:]}|>") for what in ("vision_start", "vision_end")}
    ids |= {f"{what}_token_id": number(f"<|{what}_pad|>") for what in ("image", "video", "vision")}
    ids |= {"bos_token_id": number("<|endoftext|>"), "eos_token_id": number("<|im_end|>")}
    vision = {
        "depth": 4,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "out_hidden_size": 48,
        "patch_size": 4,
        "spatial_patch_size": 4,
        "window_size": 16,
        "fullatt_block_indexes": [1, 3],
    }
    rope = {"rope_scaling": {"mrope_section": [2, 2, 2]}}
    sizes = {**_TEXT, "vocab_size": tokenizer.get_vocab_size() + 30}
    files = {
        "preprocessor_config": {
            "min_pixels": 256,
            "max_pixels": 2560,
            "patch_size": 4,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": _MEAN,
            "image_std": _STD,
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
        },
        "chat_template": {"chat_template": CHATML},
        "tokenizer_config": {
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": _decoder(tokenizer, marks),
            "additional_special_tokens": marks[1:],
            "bos_token": None,
            "chat_template": CHATML,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 131072,
            "pad_token": "<|endoftext|>",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
        "generation_config": {
            "bos_token_id": number("<|endoftext|>"),
            "pad_token_id": number("<|endoftext|>"),
            "do_sample": True,
            "eos_token_id": [number("<|im_end|>"), number("<|endoftext|>")],
            "temperature": 0.000001,
        },
    }
    changes = {**ids, **sizes, **rope, "vision_config": vision}
    return Form(changes, tokenizer, files, _seeing("model.visual"), [number(mark) for mark in marks])


def _blip2(config: Config) -> Form:
    tokenizer = bytes_of(["<image>"], begin="</s>")
    size, newline = tokenizer.get_vocab_size(), tokenizer.token_to_id("Ċ")
    text = {**_TEXT, "ffn_dim": 96, "max_position_embeddings": 128, "init_std": 0.2}
    text |= {"eos_token_id": newline, "vocab_size": size + 38, "word_embed_proj_dim": 48}
    changes = {
        "image_token_index": size - 1,
        "num_query_tokens": 8,
        "qformer_config": {**_VISION, "hidden_size": 24},
        "text_config": text,
        "vision_config": {**_VISION, "image_size": 40, "patch_size": 8},
    }
    marks = ["<pad>", "</s>", "<image>"]
    files = {
        "preprocessor_config": {
            **_CLIP,
            "image_processor_type": "BlipImageProcessor",
            "processor_class": "Blip2Processor",
            "size": {"height": 40, "width": 40},
        },
        "processor_config": {"num_query_tokens": 8, "processor_class": "Blip2Processor"},
        "tokenizer_config": {
            "add_bos_token": True,
            "add_prefix_space": False,
            "added_tokens_decoder": _decoder(tokenizer, marks),
            "bos_token": "</s>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "</s>",
            "errors": "replace",
            "pad_token": "<pad>",
            "processor_class": "Blip2Processor",
            "tokenizer_class": "GPT2Tokenizer",
            "unk_token": "</s>",
        },
        "generation_config": {"_from_model_config": True, "transformers_version": "4.27.0.dev0"},
    }

    def waken(model: Any) -> None:
        _seeing("vision_model", 0.3)(model)
        _seeing("qformer", 0.3)(model)
        model.query_tokens.normal_()
        model.language_projection.weight.normal_(std=0.5)
        model.language_model.model.decoder.embed_positions.weight.normal_(std=3)

    return Form(changes, tokenizer, files, waken, [newline, size - 1])


def _idefics(config: Config) -> Form:
    marks = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
    tokenizer = sentences_of(marks)
    sizes = {**_TEXT, "cross_layer_interval": 2, "max_position_embeddings": 256}
    changes = {
        **sizes,
        "alpha_initializer": "ones",  # of training there is nothing
        "vocab_size": tokenizer.get_vocab_size() - len(marks),
        "vision_config": {**_VISION, "embed_dim": 32, "image_size": 40, "patch_size": 8},
        "perceiver_config": {
            "resampler_depth": 2,
            "resampler_head_dim": 8,
            "resampler_n_heads": 4,
            "resampler_n_latents": 6,
        },
    }
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"}
    files = {
        "preprocessor_config": {
            "image_mean": _MEAN,
            "image_num_channels": 3,
            "image_processor_type": "IdeficsImageProcessor",
            "image_size": 40,
            "image_std": _STD,
            "processor_class": "IdeficsProcessor",
        },
        "added_tokens": {mark: tokenizer.token_to_id(mark) for mark in ["<unk>", "<s>", "</s>", *marks]},
        "special_tokens_map": {"additional_special_tokens": marks, **special},
        "tokenizer_config": {
            "add_bos_token": True,
            "add_eos_token": False,
            "added_tokens_decoder": _decoder(tokenizer, ["<unk>", "<s>", "</s>", *marks]),
            "additional_special_tokens": marks,
            **special,
            "clean_up_tokenization_spaces": False,
            "legacy": False,
            "model_max_length": 2048,
            "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer",
        },
        "generation_config": {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2},
    }

    def waken(model: Any) -> None:
        _seeing("model.vision_model")(model)
        model.lm_head.additional_fc.weight.zero_()

    return Form(changes, tokenizer, files, waken, [2])


def _smolvlm(config: Config) -> Form:
    own = {"image_token": "<image>", "fake_image_token": "<fake_token_around_image>"}
    own |= {"global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>"}
    tiles = ["<global-img>", *(f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7))]
    # the first SmolVLM writes tiles in plain text
    marks = ["<|im_start|>", "<|im_end|>", *(tiles if config["scale_factor"] == 4 else ())]
    marks += ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
    tokenizer = bytes_of(marks)
    number, size = tokenizer.token_to_id, tokenizer.get_vocab_size()
    factor, patch = config["scale_factor"], 4
    side = 32 if factor == 4 else 39  # which is no whole number of patches, as 384 is not
    name = config["architectures"][0].removesuffix("ForConditionalGeneration")
    edges = {"max_image_size": {"longest_edge": side}, "size": {"longest_edge": 4 * side}}
    changes = {
        "image_token_id": number("<image>"),
        "text_config": {**_TEXT, "head_dim": 12, "vocab_size": size + 12},
        "vision_config": {**_VISION, **edges, "image_size": side, "patch_size": patch},
        "vocab_size": size + 12,
    }
    files = {
        "preprocessor_config": {
            **_CLIP,
            **edges,
            "do_image_splitting": True,
            "do_pad": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "image_processor_type": f"{name}ImageProcessor",
            "processor_class": f"{name}Processor",
            "resample": 1,
        },
        "processor_config": {
            "image_seq_len": (side // patch // factor) ** 2,
            "processor_class": f"{name}Processor",
        },
        "chat_template": {"chat_template": smol_turn("<|im_start|>")},
        "tokenizer_config": {
            "add_prefix_space": False,
            "added_tokens_decoder": _decoder(tokenizer, marks),
            "additional_special_tokens": marks[-3:],
            "bos_token": "<|im_start|>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "<end_of_utterance>",
            "model_max_length": 8192,
            "pad_token": "<|im_end|>",
            "processor_class": f"{name}Processor",
            "tokenizer_class": "GPT2Tokenizer",
            "truncation_side": "left",
            "unk_token": "<pad>",
            "vocab_size": size,
        },
        "generation_config": {"_from_model_config": True, "eos_token_id": [number("<end_of_utterance>"), 0]},
    }
    if name == "SmolVLM":
        sampling = {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": side}}
        files["preprocessor_config"]["video_sampling"] = sampling
        files["tokenizer_config"] |= {**own, "extra_special_tokens": own}

    def waken(model: Any) -> None:
        _seeing("model.vision_model")(model)
        model.model.connector.modality_projection.proj.weight.normal_(std=0.2)

    return Form(changes, tokenizer, files, waken, [number(mark) for mark in marks])


FORMS: dict[str, Callable[[Config], Form]] = {
    "llava": _llava,
    "llava_next": _llava,
    "qwen2_5_vl": _qwen,
    "blip-2": _blip2,
    "idefics": _idefics,
    "smolvlm": _smolvlm,
    "idefics3": _smolvlm,
}
"""model_type of a published config -> what its folder is made of."""

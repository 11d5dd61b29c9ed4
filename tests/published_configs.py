"""The config.json of published repositories, in the form in which transformers saved it then."""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]

_VICUNA = {
    "_name_or_path": "lmsys/vicuna-7b-v1.5",
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "rms_norm_eps": 1e-05,
    "torch_dtype": "float16",
    "vocab_size": 32064,
}
_MISTRAL = {
    "_name_or_path": "mistralai/Mistral-7B-Instruct-v0.2",
    "architectures": ["MistralForCausalLM"],
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
    "vocab_size": 32064,
}
_LLAVA = {
    "architectures": ["LlavaForConditionalGeneration"],
    "ignore_index": -100,
    "image_token_index": 32000,
    "model_type": "llava",
    "pad_token_id": 32001,
    "projector_hidden_act": "gelu",
    "text_config": _VICUNA,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.36.0.dev0",
    "vision_config": {
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "model_type": "clip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
        "vocab_size": 32000,
    },
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "vocab_size": 32064,
}
_NEXT = {
    **_LLAVA,
    "architectures": ["LlavaNextForConditionalGeneration"],
    "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
    "model_type": "llava_next",
    "use_image_newline_parameter": True,
    "transformers_version": "4.39.0.dev0",
}
_QWEN = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "vision_token_id": 151654,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 128000,
    "max_window_layers": 70,
    "model_type": "qwen2_5_vl",
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.41.2",
    "use_cache": True,
    "use_sliding_window": False,
    "vision_config": {
        "depth": 32,
        "hidden_act": "silu",
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_chans": 3,
        "out_hidden_size": 2048,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    },
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vocab_size": 151936,
}
_BLIP2 = {
    "architectures": ["Blip2ForConditionalGeneration"],
    "image_text_hidden_size": 256,
    "image_token_index": 50265,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "model_type": "blip-2",
    "num_query_tokens": 32,
    "qformer_config": {"classifier_dropout": None, "model_type": "blip_2_qformer"},
    "text_config": {
        "_name_or_path": "facebook/opt-2.7b",
        "activation_dropout": 0.0,
        "architectures": ["OPTForCausalLM"],
        "eos_token_id": 50118,
        "ffn_dim": 10240,
        "hidden_size": 2560,
        "model_type": "opt",
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "prefix": "</s>",
        "torch_dtype": "float16",
        "vocab_size": 50304,
        "word_embed_proj_dim": 2560,
    },
    "torch_dtype": "float32",
    "transformers_version": "4.47.0.dev0",
    "use_decoder_only_language_model": True,
    "vision_config": {
        "dropout": 0.0,
        "initializer_factor": 1.0,
        "model_type": "blip_2_vision_model",
        "num_channels": 3,
        "projection_dim": 512,
    },
}
_IDEFICS = {
    "_name_or_path": "None",
    "additional_vocab_size": 3,
    "alpha_initializer": "zeros",
    "alpha_type": "float",
    "alphas_initializer_range": 0.0,
    "architectures": ["IdeficsForVisionText2Text"],
    "bos_token_id": 1,
    "cross_layer_activation_function": "swiglu",
    "cross_layer_interval": 4,
    "dropout": 0.0,
    "eos_token_id": 2,
    "freeze_lm_head": False,
    "freeze_text_layers": False,
    "freeze_text_module_exceptions": [],
    "freeze_vision_layers": False,
    "freeze_vision_module_exceptions": [],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 2048,
    "max_sequence_length": 2048,
    "model_type": "idefics",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "pad_token_id": 0,
    "qk_layer_norms": True,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.28.0.dev0",
    "use_cache": True,
    "use_resampler": True,
    "vocab_size": 32000,
    "vision_config": {
        "embed_dim": 1280,
        "image_size": 224,
        "intermediate_size": 5120,
        "patch_size": 14,
        "num_attention_heads": 16,
        "num_hidden_layers": 32,
    },
    "perceiver_config": {"model_type": "idefics", "qk_layer_norms_perceiver": True},
}


def _smol(kind: str, text: Config, vision: Config, factor: int, vocabulary: int, image: int) -> Config:
    name = {"idefics3": "Idefics3", "smolvlm": "SmolVLM"}[kind]
    return {
        "architectures": [f"{name}ForConditionalGeneration"],
        "image_token_id": image,
        "model_type": kind,
        "pad_token_id": 128002,
        "scale_factor": factor,
        "text_config": {
            "architectures": ["VLlama3ForCausalLM"],
            "_flash_attn_2_enabled": True,
            "head_dim": 64,
            "is_llama_config": True,
            "max_position_embeddings": 8192,
            "model_type": "llama",
            "neftune_noise_alpha": 0.0,
            "pad_token_id": 2,
            "perceiver_config": {"model_type": "vllama3", "resampler_n_latents": 64},
            "pixel_shuffle_factor": factor,
            "qk_layer_norms": False,
            "rms_norm_eps": 1e-05,
            "rope_interleaved": False,
            "rope_theta": 100000,
            "torch_dtype": "bfloat16",
            "use_resampler": False,
            "vocab_size": vocabulary,
            **text,
        },
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.47.1",
        "use_cache": False,
        "use_reentrant_checkpointing": False,
        "vision_config": {
            "max_image_size": {"longest_edge": vision["image_size"]},
            "model_type": {"idefics3": "idefics3", "smolvlm": "smolvlm_vision"}[kind],
            "size": {"longest_edge": 4 * vision["image_size"]},
            "tie_word_embeddings": False,
            "use_base_siglip": False,
            **vision,
        },
        "vocab_size": vocabulary,
    }


def _llama(hidden: int, width: int, layers: int, heads: int, groups: int) -> Config:
    sizes = {"hidden_size": hidden, "intermediate_size": width, "num_hidden_layers": layers}
    return {**sizes, "num_attention_heads": heads, "num_key_value_heads": groups}


_BASE = {"hidden_size": 768, "image_size": 512, "num_attention_heads": 12, "patch_size": 16}
_SHAPE = {
    "hidden_size": 1152,
    "image_size": 384,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "patch_size": 14,
}
_SMOL_2B = _llama(2048, 8192, 24, 32, 32)

CONFIGS: dict[str, Config] = {
    "llava-hf/llava-1.5-7b-hf": _LLAVA,
    "llava-hf/llava-v1.6-vicuna-7b-hf": _NEXT,
    "llava-hf/llava-v1.6-mistral-7b-hf": {**_NEXT, "text_config": _MISTRAL},
    "Qwen/Qwen2.5-VL-3B-Instruct": _QWEN,
    "Salesforce/blip2-opt-2.7b": _BLIP2,
    "HuggingFaceM4/idefics-9b-instruct": _IDEFICS,
    "HuggingFaceTB/SmolVLM-256M-Instruct": _smol(
        "idefics3", _llama(576, 1536, 30, 9, 3), _BASE, 4, 49280, 49190
    ),
    "HuggingFaceTB/SmolVLM-500M-Instruct": _smol(
        "idefics3", _llama(960, 2560, 32, 15, 5), _BASE, 4, 49280, 49190
    ),
    "HuggingFaceTB/SmolVLM-Instruct": _smol("idefics3", _SMOL_2B, _SHAPE, 3, 49155, 49153),
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": _smol("smolvlm", _SMOL_2B, _SHAPE, 3, 49280, 49190),
}
"""Hub id -> its config.json."""

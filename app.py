"""Start the app: ``python app.py`` with the bundled model, or ``python app.py --model …``."""

from __future__ import annotations

import argparse
import sys


def main() -> int:
    """Reads the arguments and serves the page; problems are one line on stderr."""
    parser = argparse.ArgumentParser(description="See visual token pruning: open the page that this prints.")
    parser.add_argument("--model", help="hub id or local folder (default: the bundled model)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 … (default auto)")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16 (default auto)")
    parser.add_argument("--clip", help="CLIP companion: a folder, or such as ViT-L-14-336:openai")
    parser.add_argument("--quantize", choices=("8bit", "4bit"), help="shrink the language model (CUDA only)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on (default 7860)")
    parser.add_argument("--share", action="store_true", help="also serve the page under a public address")
    parser.add_argument("--mcp", action="store_true", help="also offer the app's endpoints as MCP tools")
    arguments = parser.parse_args()

    import ui  # takes seconds, so --help does without it

    try:
        ui.launch(**vars(arguments))
    except (ValueError, OSError) as error:
        print(f"app.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The bench measures both sides of the same work and prints them."""

from __future__ import annotations

from vtprune.bench import bench_engine, table


def test_bench_engine(engine):
    result = bench_engine(engine, repeats=2, new_tokens=4, keep=0.2)
    text = result["prompt_tokens"] - 25
    assert result["visual_tokens"] == 25 and result["short_tokens"] == 5 + text
    for part in ("generate", "short"):
        assert all(result[part][side]["n"] == 2 for side in ("ours", "transformers", "ratio"))
        assert 0 < result[part]["ratio"]["median"] < 20
    lines = table(result).splitlines()
    assert len(lines) == 4 and "4 new tokens" in lines[2] and "prefill of" in lines[3]

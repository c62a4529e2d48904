"""What the bench says of preparation: its numbers agree, and its text is what it says."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from gpt2.config.errors import UserError
from scripts import bench
from scripts.benchmark import tokenize


def test_the_text_is_fixed_by_its_seed_and_like_language(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.jsonl" for name in "abc"]
    sizes = [
        tokenize.write_corpus(path, 1, seed) for path, seed in zip(paths, (1, 1, 2), strict=True)
    ]
    contents = [path.read_bytes() for path in paths]
    assert contents[0] == contents[1] != contents[2]
    texts = [json.loads(line)["text"] for line in contents[0].splitlines()]
    assert sizes[0] == sum(len(text.encode()) for text in texts)
    assert 1_000_000 <= sizes[0] < 1_100_000
    counts = Counter(" ".join(texts).split()).most_common()
    # About as many of the first word as of the second and third together.
    assert len(counts) > 5000
    assert counts[0][1] > 1.5 * counts[3][1]


@pytest.mark.slow
def test_the_numbers_agree_with_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenize, "SHORT", 1)
    own = ["--tokenize", "2", "--repeats", "1", "--json", str(tmp_path / "all.json")]
    assert bench.main(own) == 0
    report = json.loads((tmp_path / "all.json").read_text())
    plain = report["sides"]["plain tiktoken"]
    assert plain["of_plain"]["median"] == plain["of_plain_per_core"]["median"] == 1.0
    assert "ours, 1 worker" in report["sides"]
    for side in report["sides"].values():
        ratio = side["mb_per_second"]["median"] / plain["mb_per_second"]["median"]
        assert side["of_plain"]["median"] == pytest.approx(ratio)
    short, long = report["memory"]
    assert long["text_bytes"] > 1.5 * short["text_bytes"]
    for row in report["memory"]:
        assert 10e6 < row["rss_anon_bytes"] < 400e6
    assert "| plain tiktoken |" in capsys.readouterr().out


def test_sides_that_differ_are_not_compared() -> None:
    with pytest.raises(UserError, match="nothing was compared"):
        tokenize._speeds({"plain tiktoken": lambda: "1", "ours": lambda: "2"}, 1, 1)


def test_a_size_is_a_number() -> None:
    with pytest.raises(UserError, match="'much' is not a number from 1"):
        bench.main(["--tokenize", "much"])

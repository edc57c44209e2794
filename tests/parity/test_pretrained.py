"""A model that was pretrained here, as `transformers` reads it."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ownship.model import checkpoint
from ownship.model.attention import sequences
from ownship.model.head import logits
from ownship.recipes import pretrain


def test_the_same_logits(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number in range(20):
        (tmp_path / "data" / f"{number}.txt").write_text(f"Ship {number} sailed {number % 7} miles through the night.\n" * 5)
    folder = pretrain.run(pretrain.Pretrain(depth=2, data=tmp_path / "data", out=tmp_path / "run", steps=5, width=32, heads=2,
                                            vocab=300, context=48, batch=256, dtype="float32"))
    model, tokenizer = checkpoint.load(folder, torch.float32)
    theirs, their_tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.encode("Ship 12 sailed the sea.")
    assert their_tokenizer("Ship 12 sailed the sea.")["input_ids"] == ids
    positions, attention = sequences([len(ids)])
    with torch.no_grad():
        ours = logits(model, model(torch.tensor(ids), positions, attention))
        assert torch.allclose(ours, theirs(torch.tensor([ids])).logits[0], atol=1e-5)
    assert theirs.generation_config.eos_token_id == list(model.config.eos_token_ids)
    assert sum(parameter.numel() for parameter in theirs.parameters()) == model.config.parameters

"""A tokenizer that was learnt here, as `transformers` reads it."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ownship.model import bpe
from ownship.model.chat import Chat, Message

TEXTS = ["def add(left, right):\n    return left + right\n" * 3, "Größe 2024, naïve, 日本 👍\n\n", "the the then they them other"]


def test_transformers_reads_it_alike(tmp_path: Path) -> None:
    ours = bpe.train(TEXTS, 320)
    ours.save(tmp_path)
    for theirs in (AutoTokenizer.from_pretrained(tmp_path), PreTrainedTokenizerFast.from_pretrained(tmp_path)):
        assert len(theirs) == ours.size
        assert theirs.eos_token_id == ours.eos_id
        for text in [*TEXTS, "", " x  y\n\n\n z", "12345", "\x00\x80", "e\u0301 👩‍👩‍👧‍👦"]:
            assert theirs(text)["input_ids"] == ours.encode(text)
            assert theirs.decode(ours.encode(text)) == text
        messages: list[Message] = [{"role": "user", "content": "Add 1 and 2."}, {"role": "assistant", "content": "3"}]
        assert theirs.apply_chat_template(messages, tokenize=False) == Chat(ours).text(messages)
        assert theirs.apply_chat_template(messages[:1], add_generation_prompt=True)["input_ids"] == Chat(ours).prompt(messages[:1])

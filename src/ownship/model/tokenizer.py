"""Text ⇄ token ids, on the `tokenizers` library; from tokenizer.json or from a GGUF file's metadata."""

from __future__ import annotations

import json
import re
import reprlib
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers.decoders import DecodeStream

from ownship.errors import UserError

# How text is cut into words before the merges, by the name that GGUF gives it (`tokenizer.ggml.pre`).
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")
WORDS = {
    "gpt-2": [_GPT2],
    "gpt2": [_GPT2],
    "default": [_GPT2],
    "smollm": [r"\p{N}", _GPT2],
    "llama-bpe": [_LLAMA3],
    "llama3": [_LLAMA3],
    "qwen2": [_LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")],
}
_CONTROL, _USER_DEFINED = 3, 4  # GGUF's types of special tokens and of other tokens that are never split

_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can carry one, UTF-8 cannot


class Tokenizer:
    """Byte-level BPE.

    `encode` never yields a special token, whatever the text says: text comes from people. Special tokens are added by
    name, by the chat template (`model/chat.py`); `encode_raw` is for those who write what a template would.
    """

    def __init__(self, backend: tokenizers.Tokenizer, eos: str | None, chat_template: str | None) -> None:
        self.backend = backend
        self.eos = eos
        self.chat_template = chat_template
        backend.encode_special_tokens = True
        backend.no_padding()
        backend.no_truncation()

    @cached_property
    def special(self) -> dict[str, int]:
        """Special tokens: their text → their id."""
        return {token.content: id for id, token in self.backend.get_added_tokens_decoder().items() if token.special}

    @cached_property
    def special_ids(self) -> frozenset[int]:
        return frozenset(self.special.values())

    @cached_property
    def specials(self) -> re.Pattern[str]:
        """Finds special tokens that are written out in a text."""
        names = sorted(self.special, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names)) or r"(?!)")

    @cached_property
    def opening(self) -> list[int]:
        """The tokens that the tokenizer puts before a text by itself: mostly none, or the one that begins a text."""
        ids = self.encode("a")
        around = self.backend.encode("a", add_special_tokens=True).ids
        return around[: next(at for at in range(len(around)) if around[at : at + len(ids)] == ids)]

    @property
    def size(self) -> int:
        return self.backend.get_vocab_size(with_added_tokens=True)

    @property
    def eos_id(self) -> int:
        """Id of the token that ends a turn. Raises UserError if the tokenizer names none."""
        if self.eos is None or (id := self.backend.token_to_id(self.eos)) is None:
            raise UserError("the tokenizer names no end-of-turn token (eos_token)")
        return id

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; special tokens written out in it stay plain text. Half a surrogate pair reads as U+FFFD."""
        return self.backend.encode(_SURROGATE.sub("\ufffd", text), add_special_tokens=False).ids

    def encode_raw(self, text: str, opening: bool = True) -> list[int]:
        """Ids of text in which special tokens written out are meant, as in the prompt of a bare completion."""
        ids = [*self.opening] if opening else []
        at = 0
        for match in self.specials.finditer(text):
            ids += [*self.encode(text[at : match.start()]), self.special[match[0]]]
            at = match.end()
        return ids + self.encode(text[at:])

    def decode(self, ids: list[int], skip_special: bool = True) -> str:
        return self.backend.decode(ids, skip_special_tokens=skip_special)

    def stream(self) -> Stream:
        return Stream(self)

    def save(self, folder: Path) -> None:
        """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja as `transformers` reads them."""
        self.backend.encode_special_tokens = False
        self.backend.save(str(folder / "tokenizer.json"))
        self.backend.encode_special_tokens = True
        config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        if self.eos is not None:
            config |= {"eos_token": self.eos, "pad_token": self.eos}
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if self.chat_template is not None:
            (folder / "chat_template.jinja").write_text(self.chat_template, encoding="utf-8")


class Stream:
    """Turns ids into text one at a time, never showing half a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._backend = tokenizer.backend
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._shown = 0

    def push(self, id: int) -> str:
        """The text that `id` adds; empty while a character is incomplete."""
        self._ids.append(id)
        text = self._stream.step(self._backend, id) or ""
        self._shown += len(text)
        return text

    def flush(self) -> str:
        """What an incomplete character at the end decodes to (U+FFFD), as `decode` would."""
        return self._backend.decode(self._ids, skip_special_tokens=True)[self._shown :]


def from_folder(folder: Path) -> Tokenizer:
    """Reads tokenizer.json (+ tokenizer_config.json, chat_template.jinja). Raises UserError if they cannot be read."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"{folder}: tokenizer.json is missing")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"{path}: not a readable tokenizer ({error})") from None
    side, file = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    try:
        config = json.loads(side.read_text(encoding="utf-8")) if side.is_file() else {}
        template = config.get("chat_template")
        if isinstance(template, list):  # several named templates
            template = {item["name"]: item["template"] for item in template}.get("default")
        eos = config.get("eos_token")
        if isinstance(eos, dict):
            eos = eos["content"]
        if file.is_file():
            template = file.read_text(encoding="utf-8")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder}: tokenizer_config.json or chat_template.jinja cannot be read ({error})") from None
    except (AttributeError, KeyError, TypeError):
        raise UserError(f"{side}: chat_template or eos_token are not as expected") from None
    for name, value in (("chat_template", template), ("eos_token", eos)):
        if not isinstance(value, str | None):
            raise UserError(f"{side}: {name} must be text, not {type(value).__name__}")
    return Tokenizer(backend, eos, template)


def from_gguf(meta: dict[str, Any], where: Path) -> Tokenizer:
    """The tokenizer in a GGUF file's metadata. Raises UserError for kinds other than byte-level BPE."""
    kind = meta.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise UserError(f"{where}: tokenizer kind {reprlib.repr(kind)} is not supported in GGUF (byte-level BPE, 'gpt2', is);"
                        " use the model's Hugging Face folder with its tokenizer.json")
    words = meta.get("tokenizer.ggml.pre", "default")
    if not isinstance(words, str) or words not in WORDS:
        known = ", ".join(sorted(WORDS))
        raise UserError(f"{where}: tokenizer.ggml.pre {reprlib.repr(words)} is not supported (known: {known})")

    def array(name: str, kind: type) -> list[Any]:
        values = meta.get(f"tokenizer.ggml.{name}")
        if not isinstance(values, list) or not all(type(value) is kind for value in values):
            raise UserError(f"{where}: the metadata lacks tokenizer.ggml.{name}, a list of type {kind.__name__}")
        return values

    tokens, merges, types = array("tokens", str), array("merges", str), array("token_type", int)
    if unsplit := [merge for merge in merges if " " not in merge]:
        raise UserError(f"{where}: tokenizer.ggml.merges holds {reprlib.repr(unsplit[0])}, not two tokens with a space between")
    if len(types) != len(tokens):
        raise UserError(f"{where}: tokenizer.ggml.token_type has {len(types)} entries for {len(tokens)} tokens")
    eos, template = meta.get("tokenizer.ggml.eos_token_id"), meta.get("tokenizer.chat_template")
    if eos is not None and not (type(eos) is int and 0 <= eos < len(tokens)):
        raise UserError(f"{where}: tokenizer.ggml.eos_token_id {reprlib.repr(eos)} is outside the vocabulary of {len(tokens)}")
    if not isinstance(template, str | None):
        raise UserError(f"{where}: tokenizer.chat_template must be text, not {type(template).__name__}")
    try:
        backend = tokenizers.Tokenizer(models.BPE(
            vocab={token: id for id, token in enumerate(tokens)}, merges=[tuple(merge.split(" ", 1)) for merge in merges],
            ignore_merges=words in ("llama-bpe", "llama3")))
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"{where}: tokenizer.ggml.merges do not fit tokenizer.ggml.tokens ({error})") from None
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in WORDS[words]]
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    for token, type_ in zip(tokens, types, strict=True):
        if type_ in (_CONTROL, _USER_DEFINED):
            backend.add_tokens([AddedToken(token, special=type_ == _CONTROL, normalized=False)])
    return Tokenizer(backend, None if eos is None else tokens[eos], template)

"""A checkpoint's words: its tokenizer, its chat template, the tokens that end an answer.

Read from the folder's own files, without the libraries that made them. A template is a program that came with the
checkpoint: it runs in jinja's immutable sandbox. Refuses to know the runtime.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from gateway.checkpoint.errors import CheckpointError

TOKENIZER_FILE, TOKENIZER_CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
CONFIG_FILE, GENERATION_CONFIG_FILE = "config.json", "generation_config.json"

# For a checkpoint that brings none: plain lines that any model can follow. All lines of a message but its first are
# indented, so that none of them can begin a turn.
DEFAULT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] }}: {{ message['content'] | indent(2, blank=true) }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


# What a template may set its turns apart with, beside special tokens: `[INST]`, `<start_of_turn>`, `### User:`.
_TURN_MARK = re.compile(r"<[^<>\s]{1,60}>|\[/?[A-Z_]{2,20}\]")
_TURN_HEAD = re.compile(r"(?<!\S)(?:#{1,4} ?)?[A-Za-z]{3,20}:")
_PROBES = [
    {"role": role, "content": f"probe-{at}"}
    for at, role in enumerate(("system", "user", "assistant", "user"))
]


class ChatFormat:
    """Texts into a prompt, prompts into ids. Safe to use from several threads."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str,
        special_tokens: dict[str, str],
        end_ids: frozenset[int],
        num_tokens: int = 0,
    ) -> None:
        self.tokenizer = tokenizer
        self.end_ids = end_ids
        # A model's vocabulary may be larger than its tokenizer's: what is beyond has no text, but may be made.
        self.num_tokens = max(num_tokens, int(tokenizer.get_vocab_size()))
        self._template = _environment().from_string(template)
        self._special_tokens = special_tokens
        self._marks, self._heads = _mark_pattern(tokenizer, ()), re.compile(r"(?!)")
        scaffold = self._scaffold()
        self._marks = _mark_pattern(tokenizer, _TURN_MARK.findall(scaffold))
        if template != DEFAULT_TEMPLATE:
            self._heads = _head_pattern(_TURN_HEAD.findall(scaffold))

    @classmethod
    def load(cls, folder: Path) -> ChatFormat:
        """Raises: CheckpointError when a file is missing or damaged."""
        config = read_json(folder / TOKENIZER_CONFIG_FILE, or_empty=True)
        tokenizer = load_tokenizer(folder)
        try:
            template = _template(folder, config)
            return cls(
                tokenizer,
                template,
                _special_tokens(config),
                end_ids(folder, tokenizer),
                positive(folder, "vocab_size"),
            )
        except jinja2.TemplateSyntaxError as error:
            raise CheckpointError(
                f"the chat template of {folder} is no jinja template (line {error.lineno}: {error.message})"
            ) from error

    def render(self, messages: list[dict[str, str]]) -> str:
        """The prompt that asks for the assistant's next message.

        What looks like a special token in a message, or like another mark that the template sets turns apart with, is
        broken up: a document or a caller that spells the mark of a turn's end must not be able to end one.
        Raises: ValueError with the template's own words when it refuses these messages.
        """
        harmless = [{**each, "content": self._harmless(each["content"])} for each in messages]
        try:
            return self._template.render(
                messages=harmless, add_generation_prompt=True, **self._special_tokens
            )
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise ValueError(f"the checkpoint's chat template refuses these messages ({error})") from error

    def _harmless(self, text: str) -> str:
        return self._heads.sub(_parted, self._marks.sub(_broken_up, text))

    def _scaffold(self) -> str:
        """What the template itself puts around messages; empty when it refuses the usual ones."""
        for probes in (_PROBES, _PROBES[1:]):  # some know no system message
            try:
                return re.sub(r"probe-\d", "\n", self.render(probes))
            except ValueError:
                continue
        return ""

    def encode(self, text: str) -> list[int]:
        """Ids of a text that has all its special tokens already, as a rendered prompt has."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def encode_plain(self, text: str) -> list[int]:
        """Ids of a text without a template; the tokenizer adds what it begins every text with."""
        return self.tokenizer.encode(text).ids

    def count_many(self, texts: list[str]) -> list[int]:
        found = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [len(encoding) for encoding in found]


def _mark_pattern(tokenizer: Tokenizer, others: Iterable[str]) -> re.Pattern[str]:
    """Matches every special token and every other mark as it is spelled; nothing when there is none."""
    added = tokenizer.get_added_tokens_decoder().values()
    marks = {token.content for token in added if token.special and token.content}.union(others)
    return re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))) or r"(?!)")


def _head_pattern(heads: Iterable[str]) -> re.Pattern[str]:
    """Matches what a turn begins with, such as `USER:`, where a word can begin."""
    found = sorted(set(heads), key=len, reverse=True)
    return re.compile(rf"(?<!\S)(?:{'|'.join(map(re.escape, found))})" if found else r"(?!)")


def _broken_up(mark: re.Match[str]) -> str:
    """Nothing is taken out: what stands around it could close up to another one."""
    return f"{mark[0][:1]} {mark[0][1:]}"


def _parted(head: re.Match[str]) -> str:
    return f"{head[0][:-1]} :"


def load_tokenizer(folder: Path) -> Tokenizer:
    """Without the truncation and padding that some files carry. Raises: CheckpointError."""
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {TOKENIZER_FILE}",
            "save the checkpoint's fast tokenizer there (AutoTokenizer.from_pretrained(…).save_pretrained(…))",
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{path} cannot be read as a tokenizer ({error})") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def read_json(path: Path, *, or_empty: bool = False) -> dict[str, Any]:
    """An object from a file. or_empty: {} when there is no such file. Raises: CheckpointError."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        if or_empty:
            return {}
        raise CheckpointError(f"{path.parent} has no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error})") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return found


def positive(folder: Path, name: str) -> int:
    """A number of config.json. Raises: CheckpointError."""
    value = read_json(folder / CONFIG_FILE).get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise CheckpointError(f"{folder / CONFIG_FILE} has no usable {name}")
    return value


def _template(folder: Path, config: dict[str, Any]) -> str:
    """From its own file, else from the tokenizer's configuration: one text, or a list of named ones."""
    try:
        return (folder / TEMPLATE_FILE).read_text("utf-8")
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder / TEMPLATE_FILE} cannot be read ({error})") from error
    found = config.get("chat_template")
    if isinstance(found, list):
        named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        found = named.get("default")
    return found if isinstance(found, str) and found else DEFAULT_TEMPLATE


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """What templates may name: bos_token, eos_token and so on."""
    tokens = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token"):
        value = config.get(name)
        if isinstance(value, dict):
            value = value.get("content")
        tokens[name] = value if isinstance(value, str) else ""
    return tokens


def end_ids(folder: Path, tokenizer: Tokenizer) -> frozenset[int]:
    """Every token that any of the three files calls the end of an answer. Raises: CheckpointError."""
    ids: set[int] = set()
    for name in (GENERATION_CONFIG_FILE, CONFIG_FILE):
        found = read_json(folder / name, or_empty=True).get("eos_token_id")
        ids |= {each for each in (found if isinstance(found, list) else [found]) if isinstance(each, int)}
    name = _special_tokens(read_json(folder / TOKENIZER_CONFIG_FILE, or_empty=True))["eos_token"]
    eos = tokenizer.token_to_id(name)
    return frozenset(ids if eos is None else ids | {eos})


def _environment() -> ImmutableSandboxedEnvironment:
    """As the libraries that templates are written for set it up."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    return environment


def _tojson(value: Any, indent: int | None = None, **_: Any) -> str:
    """Without the escapes for HTML that jinja's own has."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> str:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)

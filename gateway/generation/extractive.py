"""The extractive reader: picks the sentences that answer a question, or says plainly that none does. Pure.

Document text is only ever quoted. Nothing in a passage is read as an instruction, so the answer of this tier can be
wrong but not steered: it is made of exact sentences of the passages, or of our own notice. A quote that opens with a
pronoun gets the name in parentheses before it; the citation stays the quote alone.

When to abstain was fitted, not guessed: questions were asked three times over a corpus that lacked a random half of its
documents, and a logistic regression told those with their document from those without, held out by article. The point
where it answers is set for about four unanswerable questions in five to be refused (perf/eval_reader.py measures it).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.language.pieces import (
    Candidate,
    Piece,
    candidates,
    is_of_values,
    same_words,
    stands_alone,
    start_of,
)
from gateway.language.question import Question, read
from gateway.language.referent import referent
from gateway.language.sentences import Kind
from gateway.language.spelling import respelled
from gateway.language.support import (
    NAMES,
    RANK,
    sentence_rows,
    sentence_scores,
    support_of,
    weight_vector,
)
from gateway.types import Citation, Delta, Passage

# question, sentences -> cosine of each sentence with the question, shape [len(sentences)]
Similarity = Callable[[str, list[str]], npt.NDArray[np.float32]]

_COVER, _NEAR, _PLACED = (NAMES.index(name) for name in ("cover", "near", "place"))
MAX_PARTS = 4
MAX_SENTENCES = 3  # of an answer
NO_ANSWER = "I could not find an answer to this in your documents."
MAX_EMBEDDED = 8  # sentences that `deep` embeds: the bound of its cost; more were no better

# What a feature is worth to `deep`, where the sentence's similarity to the question counts beside them.
_DEEP = {"cover": 6.5, "near": 2.5, "linked": 4.0, "evidence": 1.2, "length": -0.2}
# What a late place costs a sentence as the first one to quote, by mode: passages say early what they are about, and a
# sentence's similarity to the question tells `deep` that already.
_PLACE = {"fast": -0.6, "deep": 0.0}
_DEEP_SIMILARITY = 4.8
_FOLLOWED = 3.0  # support of a question that follows a name: made of found words, it finds them again easily
_SETTLED = 3.0  # support of a question, from where on what only follows it takes none of its room
_NEAR_COSINE = 0.25  # from here on a passage is worth pointing at, though it answers nothing
# Log-odds against the best sentence, from which on another one is quoted too; and what its place adds.
_WORTH = {"fast": -3.2, "deep": -2.7}  # by mode: of `deep` they lie closer together
_SAME_PASSAGE, _NEIGHBOUR = 1.0, 0.5
_UNRELATED = (
    2.0  # what a sentence loses that has no word in common with the question, nor has what stands above it
)
_MAX_KEPT_CHARS = 2000  # of a text whose count is kept: passages come again, long questions do not


class ReaderParams(msgspec.Struct, frozen=True, kw_only=True):
    """How to answer. max_chars bounds the quoted text; max_tokens 0 = no bound.

    parts: questions that make up the one asked; each gets sentences of its own. Where the first of them is the question
    itself, the others only follow what its passages name, and get one sentence.
    """

    mode: Literal["fast", "deep"] = "fast"
    max_sentences: Annotated[int, msgspec.Meta(ge=1, le=10)] = MAX_SENTENCES
    max_chars: Annotated[int, msgspec.Meta(ge=1, le=20_000)] = 1500
    max_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0
    parts: Annotated[list[str], msgspec.Meta(max_length=MAX_PARTS)] = []


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Quoted sentences in reading order, or none and a notice.

    score: log-odds that the passages hold the answer. shown: what the reader of the answer sees for each citation.
    """

    citations: list[Citation] = []
    shown: list[str] = []
    answered: bool = False
    is_cut: bool = False  # max_tokens ended it
    notice: str = ""
    score: float = 0.0


def answer(
    question: str, passages: Sequence[Passage], params: ReaderParams, similarity: Similarity | None = None
) -> Answer:
    """The best sentences for the question. Passages are numbered 1..n as given.

    similarity: needed for what `deep` adds; without it `deep` answers as `fast` does.
    """
    follows = params.parts[:1] == [question]
    own = _found_first(passages) if follows else passages
    readings = [
        _reading(part, passages if number else own, params, similarity)
        for number, part in enumerate(params.parts or [question])
    ]
    least = [0.0, *(_FOLLOWED if follows else 0.0 for _ in readings[1:])]
    told = [each for each, support in zip(readings, least, strict=True) if each.support >= support]
    if not told:
        support = max(each.support for each in readings)
        is_near = support > -3 and max((p.score for p in passages), default=0.0) > _NEAR_COSINE
        return Answer(notice=_notice(passages, near=is_near), score=support)
    chosen = _of_parts(told, params, follows=follows and told[0] is readings[0])
    return _quoted(chosen, passages, params, max(each.support for each in told))


def _found_first(passages: Sequence[Passage]) -> Sequence[Passage]:
    """Without what further searches added: it stands behind, and its odds are of answering another question."""
    ranks = [passage.rank_score for passage in passages]
    return passages[: next((n for n in range(1, len(ranks)) if ranks[n] > ranks[n - 1]), len(ranks))]


class _Reading(NamedTuple):
    """What one question finds. support: log-odds that the passages answer it. chosen: indices, best first."""

    asked: Question
    support: float
    found: list[Candidate]
    chosen: list[int]


def _reading(
    question: str, passages: Sequence[Passage], params: ReaderParams, similarity: Similarity | None
) -> _Reading:
    asked = respelled(read(question), passages)
    said = _bare(asked.text)
    found = [each for each in candidates(passages) if not _restates(said, each.text)]
    if not asked.terms or not found:
        return _Reading(asked, -99.0, [], [])
    rows = sentence_rows(asked, found, passages)
    scores = sentence_scores(rows)
    support = support_of(asked, found, passages, scores)
    if support < 0:
        return _Reading(asked, support, [], [])
    kept, similar = np.arange(len(found)), scores
    if params.mode == "deep" and similarity is not None:
        kept, similar = _deepened(question, found, rows, scores, similarity)
    chosen = _chosen(
        [found[index] for index in kept],
        similar + _PLACE[params.mode] * rows[kept, _PLACED],
        similar,
        rows[kept, _COVER] + rows[kept, _NEAR] > 0,
        params,
        terms=asked.terms,
    )
    chosen = [int(kept[index]) for index in chosen]
    worded = int((scores + _PLACE["fast"] * rows[:, _PLACED]).argmax())
    if params.mode == "deep" and rows[worded, _COVER] > rows[chosen[0], _COVER]:
        chosen = _with_worded(chosen, found, worded, params)
    return _Reading(asked, support, found, chosen)


def _of_parts(
    told: list[_Reading], params: ReaderParams, *, follows: bool
) -> list[tuple[Question, Candidate]]:
    """The sentences to quote: the best one first, then the others in reading order; of several parts, part by part.

    follows: the first part is the question itself, so it has all the room but a sentence for each of the others; and
    all of it where it is well supported.
    """
    num_others = len(told) - 1 if not follows or told[0].support < _SETTLED else 0
    share = max(1, params.max_sentences // len(told))
    rooms = [params.max_sentences - num_others, *([1] * len(told[1:]))] if follows else [share] * len(told)
    quoted: list[tuple[Question, Candidate]] = []
    for each, room in zip(told, rooms, strict=True):
        fresh = [each.found[index] for index in _ordered(each.chosen)]
        fresh = [candidate for candidate in fresh if all(candidate.text != other.text for _, other in quoted)]
        quoted += [(each.asked, candidate) for candidate in fresh[: max(1, room)]]
    return quoted[: params.max_sentences]


def _ordered(chosen: list[int]) -> list[int]:
    return [chosen[0], *sorted(chosen[1:])]


def _restates(said: str, sentence: str) -> bool:
    """Whether a sentence repeats the question word for word: text about the question, not its answer.

    said: `_bare(question)`.
    """
    return len(said) <= len(sentence) and said.count(" ") >= 2 and said in _bare(sentence)


def _bare(text: str) -> str:
    """The words alone, in lower case, one space between."""
    return " ".join(re.findall(r"\w+", text.lower()))


def _deepened(
    question: str,
    found: list[Candidate],
    rows: npt.NDArray[np.float64],
    scores: npt.NDArray[np.float64],
    similarity: Similarity,
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Indices of the lexically best candidates in reading order, and their scores with sentence similarity as well."""
    kept = np.sort(np.argsort(-scores, kind="stable")[:MAX_EMBEDDED])
    pieces = [found[index].piece for index in kept]
    near = similarity(question, [f"{p.heading}: {p.text}" if p.heading else p.text for p in pieces])
    lexical: npt.NDArray[np.float64] = rows[kept] @ weight_vector(_DEEP | {"rank": RANK})
    return kept, lexical + _DEEP_SIMILARITY * np.asarray(near, dtype=np.float64)


def _with_worded(chosen: list[int], found: list[Candidate], worded: int, params: ReaderParams) -> list[int]:
    """With the sentence that `fast` quotes first, if need be in the place of the last. worded: its index.

    Where similarity prefers a sentence that holds less of what is asked, neither is sure: the answer has room for both.
    """
    if params.max_sentences < 2 or any(
        worded == index or same_words(found[worded], found[index]) for index in chosen
    ):
        return chosen
    return [*chosen[: params.max_sentences - 1], worded]


def _chosen(
    found: list[Candidate],
    as_first: npt.NDArray[np.float64],
    scores: npt.NDArray[np.float64],
    is_related: npt.NDArray[np.bool_],
    params: ReaderParams,
    *,
    terms: Sequence[str],
) -> list[int]:
    """Indices of the sentences to quote, best first: as few as hold the answer with good odds.

    as_first: the scores by which the best one is told.
    """
    best = int(as_first.argmax())
    odds = scores - scores[best] + _kinship(found, best) - np.where(is_related, 0.0, _UNRELATED)
    chosen = [best]
    chars = len(found[best].text)
    for index in map(int, np.argsort(-odds, kind="stable")):
        if len(chosen) >= params.max_sentences or odds[index] < _WORTH[params.mode]:
            break
        is_long = chars + len(found[index].text) > params.max_chars
        if index == best or is_long or any(same_words(found[index], found[other]) for other in chosen):
            continue
        chosen.append(index)
        chars += len(found[index].text)
    # Left out last, so that nothing weaker comes in their place.
    return [index for index in chosen if not _is_lesser_row(found[index], found[best], terms)]


def _is_lesser_row(one: Candidate, best: Candidate, terms: Sequence[str]) -> bool:
    """Whether a row of values (or a record) holds only a part of what is asked that the best row beside it holds: it
    tells the same of another thing, which nobody asked about."""
    if one.passage != best.passage or not (is_of_values(one.piece) and stands_alone(best.piece)):
        return False
    return _terms_held(one.piece, terms) < _terms_held(best.piece, terms)


def _terms_held(piece: Piece, terms: Sequence[str]) -> set[str]:
    return {term for term in terms if term in piece.stems or start_of(term) in piece.starts}


def _kinship(found: list[Candidate], best: int) -> npt.NDArray[np.float64]:
    """What standing near the best sentence adds to the log-odds of another one."""
    owner = found[best].passage
    kin = np.array([_SAME_PASSAGE * (candidate.passage == owner) for candidate in found])
    kin[[place for place in (best - 1, best + 1) if 0 <= place < len(found) and kin[place]]] += _NEIGHBOUR
    return kin


def _quoted(
    chosen: list[tuple[Question, Candidate]],
    passages: Sequence[Passage],
    params: ReaderParams,
    score: float,
) -> Answer:
    citations, shown = [], []
    left = params.max_tokens or 1 << 30
    chars = params.max_chars
    before = ""
    for number, (asked, candidate) in enumerate(chosen, 1):
        text = _within(candidate.text, left, chars)
        left -= num_tokens(text)
        chars -= len(text)
        if text:
            start = passages[candidate.passage].start + candidate.piece.start
            citations.append(
                Citation(passage=candidate.passage + 1, start=start, end=start + len(text), text=text)
            )
            meant = _meant(asked, candidate, before, left)
            left -= num_tokens(meant)
            shown.append(meant + _shown(text, candidate.piece.kind))
            before = text
        if len(text) < len(candidate.text) or left <= 0:
            is_last = number == len(chosen) and len(text) == len(candidate.text)
            return Answer(citations=citations, shown=shown, answered=True, is_cut=not is_last, score=score)
    return Answer(citations=citations, shown=shown, answered=True, score=score)


def _meant(asked: Question, candidate: Candidate, before: str, max_tokens: int) -> str:
    """Our own words before a quote that opens with a pronoun: whom it means, unless what was just quoted says so."""
    if before and before == candidate.piece.before:
        return ""
    name = referent(asked, candidate.piece)
    meant = f"({name}) " if name else ""
    return meant if num_tokens(meant) <= max_tokens else ""


def _within(text: str, max_tokens: int, max_chars: int) -> str:
    """The longest start of a sentence that fits, ending with a whole word (the first word always fits)."""
    if len(text) <= max_chars and num_tokens(text) <= max_tokens:
        return text
    end = 0
    for match in re.finditer(r"\S+", text):
        if end and (match.end() > max_chars or num_tokens(text[: match.end()]) > max_tokens):
            break
        end = match.end()
    return text[: min(end, max(max_chars, 1))]


def _shown(text: str, kind: Kind) -> str:
    """A quoted span as running text. Only our own marks may look like marks, so a quoted `[3]` becomes `(3)`."""
    line = " ".join(text.split())
    if kind is Kind.CODE:
        return f"`{line}`" if "`" not in line else line
    if kind is Kind.ROW:
        line = " · ".join(cell.strip() for cell in re.split(r"\||\t", text) if cell.strip())
    return re.sub(r"\[(\d+)\]", r"(\1)", line)


def _notice(passages: Sequence[Passage], *, near: bool) -> str:
    """The plain refusal; with a hint of where related text stands, which cites nothing."""
    places = []
    for passage in passages[:3] if near else ():
        place = " ".join((passage.heading or passage.filename).replace(" > ", " › ").split())
        place = re.sub(r"[\[\]\x00-\x1f`*_<>#]", "", place)[:80].strip()
        if place and place not in places:
            places.append(place)
    return f"{NO_ANSWER} The nearest sections are: {'; '.join(places)}." if places else NO_ANSWER


def num_tokens(text: str) -> int:
    """Estimate of the word pieces of a text: words and marks, and one more per eight letters of long ones."""
    return _counted(text) if len(text) <= _MAX_KEPT_CHARS else _counted.__wrapped__(text)


@lru_cache(maxsize=2048)
def _counted(text: str) -> int:
    return sum(1 + (len(piece) - 1) // 8 for piece in re.findall(r"\w+|[^\w\s]", text))


def deltas(found: Answer, *, num_input_tokens: int = 0) -> Iterator[Delta]:
    """The answer as it is streamed: a delta per sentence, the last one with the finish reason."""
    if not found.citations:
        yield Delta(
            text=found.notice,
            finish_reason="length" if found.answered else "no_answer",
            num_input_tokens=num_input_tokens,
            num_output_tokens=num_tokens(found.notice),
        )
        return
    written, last = 0, len(found.citations) - 1
    for index, (citation, shown) in enumerate(zip(found.citations, found.shown, strict=True)):
        written += num_tokens(shown)
        reason = ("length" if found.is_cut else "stop") if index == last else ""
        yield Delta(
            text=f"{' ' if index else ''}{shown} [{citation.passage}]",
            citations=[citation],
            finish_reason=reason,
            num_input_tokens=num_input_tokens,
            num_output_tokens=written,
        )

"""Word lists that the guards go by: which words mean the same, which must not be lost. English."""

from __future__ import annotations

import re

from gateway.language.terms import stem, word_set

# Endings that make another word of a word. `stem` takes them off, because a text that is found by both is found.
_MADE_BY = (
    "ing", "ly", "er", "or", "ment", "ness", "ance", "ence", "ancy", "ency", "ion", "ity", "ist", "ism", "ous", "ful",
    "ant", "ent", "ive", "al", "ic",
)  # fmt: skip


def plain(word: str) -> str:
    """A key that the plural and the tenses of a word share: a builder is no build, a building is neither."""
    low, key = word.lower().replace("’", "'").removesuffix("'s"), stem(word)
    if key.startswith("="):
        return key
    if low.endswith("s") and not low.endswith("ss"):
        low = low[:-3] + "y" if low.endswith("ies") else low[:-1]
    low = low.removesuffix("ed")  # `discovered` is `discover`, which ends in -er too
    ending = next((each for each in _MADE_BY if low.endswith(each) and not key.endswith(each)), "")
    return f"{key}~{ending}" if ending else key


# Words that may stand for one another in a question, whatever else it says. Kept short on purpose: a missing pair costs
# a hit, a wrong one a false answer.
_SAME = (
    "begin start commence",
    "end finish conclude",
    "buy purchase acquire",
    "film movie",
    "big large",
    "quick fast rapid",
    "sick ill",
    "car automobile",
    "author writer",
    "make create produce",
    "build construct",
    "show display",
    "help assist aid",
    "ask request",
    "choose select pick",
    "allow permit",
    "need require",
    "get obtain receive",
    "happen occur",
    "repair fix",
    "delete remove erase",
    "location place",
    "reason cause",
    "amount quantity",
    "total overall",
    "whole entire",
    "nation country",
    "physician doctor",
    "teacher instructor",
    "error mistake",
    "goal aim objective",
    "method way technique",
    "kind type sort",
    "important significant",
    "famous well-known renowned",
    "usually normally typically",
    "near close",
    "rich wealthy",
    "live reside",
    "die perish",
    "gain earn",
    "reply answer respond",
    "battle fight",
    "defeat beat",
    "destroy demolish",
    "discover find",
    "give provide supply",
    "keep retain",
    "name call",
    "say state",
    "speak talk",
    "try attempt",
    "use utilize utilise employ",
    "percent percentage",
    "yearly annual",
    "photo picture photograph",
    "job occupation profession",
    "company firm",
    "city town",
    "colour color",
    "organisation organization",
    "centre center",
    "km kilometre kilometer kilometres kilometers",
    "m metre meter metres meters",
    "kg kilogram kilograms",
    "min minute minutes",
    "sec second seconds",
    "mb megabyte megabytes",
    "gb gigabyte gigabytes",
)
SYNONYMS = {plain(word): plain(group.split()[0]) for group in _SAME for word in group.split()}

NEGATIONS = word_set(
    "not no never none neither nor cannot without nobody nothing nowhere hardly except unless lack fail refuse deny "
    "exclude avoid prevent stop"
)
# Small words that turn a question into another one.
TELLING = word_set(
    "after before above below over under off out up down since until against within between among through across into "
    "onto from more most less least fewer fewest few all every each only both either some any same other else again "
    "once first last next previous still already yet too own must should may might"
)
POSSESSIVES = {
    form: person
    for person, forms in {
        "i": "i my mine me myself", "we": "we our ours us ourselves", "you": "you your yours yourself",
        "he": "he his him himself", "she": "she her hers herself", "it": "it its itself",
        "they": "they their theirs them themselves",
    }.items()
    for form in forms.split()
}  # fmt: skip

NUMBERS = {
    word: number
    for number, words in {
        "0": "zero", "1": "one", "2": "two", "3": "three", "4": "four", "5": "five", "6": "six", "7": "seven",
        "8": "eight", "9": "nine", "10": "ten", "11": "eleven", "12": "twelve dozen", "13": "thirteen",
        "14": "fourteen", "15": "fifteen", "16": "sixteen", "17": "seventeen", "18": "eighteen", "19": "nineteen",
        "20": "twenty", "30": "thirty", "40": "forty", "50": "fifty", "60": "sixty", "70": "seventy", "80": "eighty",
        "90": "ninety", "100": "hundred", "1000": "thousand", "1000000": "million", "1000000000": "billion",
        "1/2": "half", "1st": "first", "2nd": "second", "3rd": "third", "4th": "fourth", "5th": "fifth",
    }.items()
    for word in words.split()
}  # fmt: skip

GRADED = word_set(
    "big large small great high low long short tall deep wide narrow old young new early late fast slow cheap dear "
    "rich poor strong weak hard soft hot cold warm cool bright dark heavy light near far close clean dirty safe "
    "simple easy "
    "loud quiet thick thin few smart wise happy sad dry wet rare common busy broad"
)
IRREGULAR_DEGREES = {
    "better": ("good", 1), "best": ("good", 2), "worse": ("bad", 1), "worst": ("bad", 2), "farther": ("far", 1),
    "further": ("far", 1), "farthest": ("far", 2), "furthest": ("far", 2),
}  # fmt: skip

TENSES = {
    form: tense
    for tense, forms in {
        "now": "is are am do does has have can 's", "then": "was were did had could", "to come": "will shall would",
    }.items()
    for form in forms.split()
}  # fmt: skip

# What is said around a question and is no part of it.
FRAME = re.compile(
    r"^\W*(?:(?:hi|hello|hey|please|ok|okay|so|well|and|now)\b[\s,!.]*)*"
    r"(?:(?:can|could|would|will) you (?:please |kindly )?(?:tell|explain to|show|inform|remind|help) (?:me|us)"
    r"(?: (?:understand|know|about))?\s*"
    r"|(?:please )?(?:tell|remind|inform) (?:me|us)\s*"
    r"|(?:do you (?:happen to )?know|any idea|i(?:'d| would) like to know|i want to know|i(?:'m| am) wondering"
    r"|i wonder|i need to know|what i want to know is|the question is|my question is)\s*[:,]?\s*)?"
    r"(?:(?:please|kindly)\b[\s,]*)?",
    re.IGNORECASE,
)
TAIL = re.compile(
    r"(?:[\s,]*\b(?:please|thanks|thank you|exactly|do you know|can you tell me|if i may ask|again))*[\s?!.]*\Z",
    re.IGNORECASE,
)
CONTRACTIONS = (
    (re.compile(r"\bcan(?:not|['’]t)\b", re.IGNORECASE), "can not"),
    (re.compile(r"\bwon['’]t\b", re.IGNORECASE), "will not"),
    (re.compile(r"(?<=\w)n['’]t\b", re.IGNORECASE), " not"),
    (re.compile(r"\b(what|who|where|when|why|how|that|it|he|she|there)['’]s\b", re.IGNORECASE), r"\1 is"),
    (re.compile(r"(?<=\w)['’]re\b", re.IGNORECASE), " are"),
    (re.compile(r"(?<=\w)['’]ve\b", re.IGNORECASE), " have"),
    (re.compile(r"(?<=\w)['’]ll\b", re.IGNORECASE), " will"),
)

"""Answers that talk to the judge: what gives them away, and what is shown to the judge instead.

The model under test writes the answer, and a benchmark's pictures may hold any text, so an answer may look
like a verdict, close a tag, break out of JSON or give orders. What is aimed at the judge is cut out of
what it is shown, and the answer is flagged; what remains is judged like any other answer. Nothing here
decides a score. That a reply really is the judge's own is another matter: see the code in ``rubrics``.

Flags: ``verdict`` (imitates one), ``order`` (tells the judge what to do), ``role`` (a chat's markers, a
field's name, a broken-out quote), ``code`` (asks for the call's code), ``hidden`` (text that a person does
not see), ``cut`` (longer than ``MAX_CHARS``; not an attack).
"""

from __future__ import annotations

import base64
import codecs
import contextlib
import html
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

MAX_CHARS = 16_000
REMOVED = "[...]"
ATTACKS = ("verdict", "order", "role", "code", "hidden")

_JUDGE = r"(?:judge|grader|evaluator|examiner|reviewer|assessor|scorer|rater|marker|autograder|llm|ai)"
_MARK = r"(?:verdicts?|scores?|grades?|ratings?|marks?|full points|points)"
_ANSWER = r"(?:this|the|my|above|predicted|given|following)\s+(?:answer|response|prediction|reply|output)"
_KEY = r"(?:verdict|score|pred|prediction|grade|rating|marks?|mark_[12]|correct|choice|code|nonce|reason)"

# Runs have an end: what repeats without one takes time that grows faster than a monotonous answer.
_PATTERNS: dict[str, tuple[str, ...]] = {
    "verdict": (
        rf"[\"'`]{_KEY}[\"'`]\s*(?::|=)",
        rf"(?:^|\n)\W{{0,12}}(?:final\s+)?{_MARK}\s*(?::|=|\bis\b)[\"'`*\s]*"
        r"(?:yes|no|correct|\d(?!\d*\s*[-–:]\s*\d)|full|perfect)",  # not a game's score, as in 3-2
        r"\b(?:verdict|pred)\s*(?::|=|\bis\b)\s*[\"'`*]*(?:yes|no|correct|true)\b",
        r"^\W{0,12}(?:yes|correct|match)\W{1,12}(?:score\W{0,12})?\d(?:\.\d)?"
        r"(?:\s*(?:/|out of)\s*\d+)?\W{0,12}$",
        r"^\W{0,12}\d+(?:\.\d)?(?:\s*/\s*|\s+out of\s+)(?:5|10)\W{0,12}$",
        r"<(?:verdict|score|grade|rating|pred)\b[^>]*>",
    ),
    "order": (
        r"\b(?:(?:ignor|disregard|forget|overrid|discard)\w*(?<!s)|bypass|bypassing"  # not: he ignores them
        r"|do not (?:follow|use|compare))\b"
        r"(?:\s+(?:to|all|any|the|your|these|those|my|previous|prior|above|earlier|preceding|former|system|of"
        r"|that|everything|every|other|what))*\s*"
        r"(?:instructions?|rules?|prompts?|rubrics?|guidelines?|directions?|criteri\w+|references?"
        r"|correct answer|ground truth|messages?|above|previous|you (?:were|have been) told|said)\b",
        rf"\b(?:dear|attention|note (?:to|for)|messages? (?:to|for)|hey|hi|hello|listen"
        r"|instructions? (?:to|for))\W{1,12}"
        rf"(?:the\s+|an?\s+|any\s+|all\s+)?{_JUDGE}\b",
        rf"(?:^|\n|[.!?]\s)\W{{0,12}}{_JUDGE}\s*[,:!]",
        rf"\byou\s+are\s+(?:now\s+|hereby\s+)?(?:an?\s+|the\s+|my\s+)?(?:\w+\s+){{0,3}}{_JUDGE}\b",
        rf"\b(?:as|acting as)\s+(?:an?|the|my)\s+(?:\w+\s+)?{_JUDGE}\b(?:(?!\bI\b).){{0,40}}"
        r"\b(?:you|must|should|will|give)\b",
        rf"\b(?:give|assign|award|grant|return|output|print|report|emit|set|put|choose|select|issue|produce|use"
        rf"|record|enter|deserves?|earns?|receives?|get|merits?|write|state|submit|make|raise|increase|change"
        rf"|force|rate|respond|reply|answer)\b.{{0,50}}\b(?:a|the|with|of|my|its|full|to|as|maximum|max|highest|top"
        rf"|best|perfect|{_KEY})\s+(?:possible\s+|final\s+)?(?:{_MARK}|full marks|credit|5|10|five|ten)\b"
        rf".{{0,30}}(?:\d|yes|five|ten|max|full|perfect|high|top|correct|$)",
        r"\b(?:full|top|maximum|highest|perfect|best)\s+(?:possible\s+)?(?:marks?|scores?|grades?|ratings?|credit)"
        r"\W.{0,40}(?:please|now|answer|required|mandatory)",
        r"\b(?:please|must|should|now|always|simply|just|kindly)\b.{0,30}\b(?:full|top|maximum|highest|perfect)\s+"
        r"(?:possible\s+)?(?:marks?|scores?|grades?|ratings?|credit)",
        r"\b(?:reply|respond|output|return|print|emit|say)\b\s*(?:(?:only|just|simply|exactly|with|by|in|that"
        r"|it is|the|a|word|valid|following|string)\b\s*|:\s*)*[\"'`{(]?\s*"
        r"(?:yes|no|5|10|1\.0|correct|true|json)\b",
        rf"\b(?:rate|grade|mark|score|judge|count|accept|consider|treat|evaluate|classify|label)\b\s+"
        rf"(?:it|this|me|that|{_ANSWER})\b.{{0,30}}\b(?:as|with|at|correct|right|match\w*|yes|\d|full|perfect"
        r"|high\w*)",
        rf"\b{_ANSWER}\s+(?:should|must|has been|needs? to|shall|ought to|is to|will|was|deserves|counts)\b"
        r".{0,30}"
        r"\b(?:mark\w*|grade\w*|judge\w*|score\w*|accept\w*|consider\w*|treat\w*|rate\w*|count\w*|verif\w*|full"
        r"|perfect|approved|correct|match\w*)",
        r"\b(?:new|updated|revised|real|actual|true|secret|hidden)\s+(?:system\s+)?(?:instructions?|rules?|rubrics?"
        r"|prompts?|guidelines?)\b\s*(?::|are|is|follow|apply|say)",
        r"\b(?:system|developer|admin\w*|root|debug|maintenance|test|sudo|god)[\s_-]*(?:(?:prompt|override)s?\b"
        r"|(?:mode|message|note|instruction)s?\s*(?::|\]|enabled|activated|engaged|is now))",
        r"\b(?:already|pre)[\s-]*(?:been\s+)?(?:graded|judged|verified|approved|validated"
        r"|scored\s+(?:as|correct))\b",
        r"\bthe\s+(?:correct|reference|true|ground[\s-]truth)\s+answer\s+(?:above|given|in the|has|was"
        r"|is (?:wrong|outdated|incorrect|mistaken)|you were)\b",
        r"\b(?:grading|judging|scoring|evaluation)\s+(?:policy|rule|instruction|note|protocol|criteri\w+|script)s?\b",
        # the same in other languages: ignore the instructions; give full marks; judge!
        r"(?:忽略|无视|無視|不要理会|忘记).{0,14}(?:指令|指示|说明|提示|规则|以上|之前|上述)",
        r"(?:以上|之前|上記|前).{0,8}(?:指令|指示|规则).{0,4}(?:忽略|无视|無視)",
        r"(?:给|打|评|請|请).{0,8}(?:满分|滿分|5\s*分|五分|10\s*分|高分)|満点|만점",
        r"(?:지시|명령).{0,8}무시|(?:评委|裁判|評委|評価者)\s*[:：,，]",
        r"\bignor(?:iere|ieren|a|e|ez|er|ar|are)\b.{0,30}\b(?:anweisung\w*|regeln|instruc\w+|instruç\w+|consignes?"
        r"|istruzioni|règles|reglas|regole|regras)",
        r"\b(?:volle\s+punktzahl|höchstnote|bestnote|punteggio\s+(?:massimo|pieno)|puntuación\s+(?:máxima|perfecta)"
        r"|calificación\s+máxima|note\s+maximale|nota\s+máxima|pontuação\s+máxima)\b",
        r"\b(?:bewert\w*|gib|geben\s+sie)\b.{0,40}\bpunkt\w*\b|\b(?:attribu|donn|mett)(?:ez|er)\b.{0,40}"
        r"\b(?:cinq sur cinq|points?|note)\b|\b(?:otorg|d[eé]|asign|marqu|marc)\w*\b.{0,40}"
        r"\b(?:respuesta|resposta)\b.{0,20}\bcorrecta?\b|\b(?:otorg|asign)\w*\b.{0,20}\bpuntos?\b"
        r"|\bnegeer\b.{0,30}\binstructies\b|\btalimatlar\w*.{0,20}\byok say\w*"
        r"|\bcevab\w*\s+doğru\b.{0,40}\bpuan\b"
        r"|تجاهل.{0,20}التعليمات|الدرجة\s+الكاملة"
        r"|निर्देशों.{0,12}अनदेखा|पूरे\s+अंक|정답으로.{0,12}(?:처리|간주)|점을?\s*(?:주세요|주십시오)|正解として.{0,8}(?:扱|採点)"
        r"|点を?(?:つけ|付け|与え)",
        r"игнориру\w*.{0,30}(?:инструкц|указан|правил)\w*|(?:постав|выстав|дай)\w*.{0,20}(?:балл|оценк)\w*",
    ),
    "role": (
        r"<\|[^|<>]{1,40}\|>|\[/?INST\]|<</?SYS>>|</s>|<s>",
        r"</?\s*(?:system|user|assistant|answer|prediction|predicted_answer|judge|instructions?|data|question"
        r"|context|input|response|student)\b[^<>]{0,40}>",
        r"(?:^|\n)[#*\[( \t]{0,12}(?:system|assistant|user|developer|judge|grader|evaluator)"
        r"[\])* \t]{0,12}:",
        r"\b(?:predicted_answer|correct_answer|ground_truth|answer_[12]|predicted_answer_[12])\b",
        r"\[?(?<!\bthe )\bend of (?:the )?(?:assistant|answer|prediction|json|input|data|student|user"
        r"|response|message)\b",
        r"^[^{\"]*[\"']\s*\}",
        r"[\"']\s*,\s*[\"']\w+[\"']\s*:",
        r"```\s*(?:json|system)",
        r"(?:={3,12}|-{5,12})[ \t]{0,4}[^\W\d_]"
        r"|#{3}[ \t]{0,4}(?:system|instruction|verdict|response|end|new)",
    ),
    "code": (  # not: a box with a QR code on it
        r"(?:^|[^\w\s]\s?|\n|\b(?:and|then|to|must|should|please|now|just|also|always)\s+)"
        r"(?:copy|include|repeat|use|reuse|find|read|take|echo|insert|fill in|put|add|keep|quote)\b"
        r".{0,40}\b(?<!qr )(?<!bar )(?<!zip )(?<!dress )(?<!source )(?<!area )(?<!morse )"
        r"(?:code|nonce|token|passphrase|secret)\b",
        r"[\"'`]code[\"'`]",
    ),
}
_FINDERS = {
    flag: re.compile("|".join(f"(?:{p})" for p in patterns), re.IGNORECASE | re.DOTALL)
    for flag, patterns in _PATTERNS.items()
}
_BLOCK = re.compile(rf"\{{[^{{}}]*[\"'`]?\b{_KEY}\b[\"'`]?\s*[:=][^{{}}]*\}}?", re.IGNORECASE)
_SEGMENT = re.compile(r"[^.!?。！？\n]*(?:[.!?。！？\n]+|$)\s*")
_SPACED = re.compile(r"\b(?:\w[ ._*-]){4,}\w\b")
_BASE64 = re.compile(r"[A-Za-z0-9+/]{24,}={0,2}")
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})")
_UNSEEN = re.compile(
    "[\u00ad\u180e\u200b\u200c\u200d\u2060-\u2064\ufeff\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]"
)
_PLANTED = re.compile("[\u202d\u202e\u2066-\u2069\U000e0020-\U000e007e]")
_TURNED = re.compile("[\u202d\u202e\u2066-\u2068].*?(?:[\u202c\u2069]|$)", re.DOTALL)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ABOUT_JUDGING = re.compile(
    r"\b(?:scores?|verdicts?|grad(?:e|es|ing)|ratings?|marks?|rubrics?|judg\w+|evaluat\w+|references?|compare|system"
    r"|(?:first|second|other) answer|answer (?:yes|no|with)|always|full)\b"
    r"|^\W{0,12}\d+(?:\W{1,12}\d+)*\W{0,12}$|^\W{0,12}(?:yes|ok)\W{0,12}$",
    re.IGNORECASE,
)
_GAP = "\ue000"
_GAPS = re.compile(rf"(?:\s*{_GAP}\s*)+")
_LOOKALIKES = str.maketrans(
    "аеорсухіѕјԁɡкмтοαιενρτυκχΙΟΑΕΡΤΚΧΝАЕОРСТХКМ", "aeopcyxisjdgkmtoaievptukxIOAEPTKXNAEOPCTXKM"
)
_LEET = str.maketrans("013457@$", "oieastas")
_IN_WORD = re.compile(r"[A-Za-z][013457@$]|[013457@$][A-Za-z]")
_BLANKS = re.compile("[\u115f\u1160\u2800\u3164\uffa0]")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2}[ ]?){12,}")
_BACKWARDS = re.compile(r"erongi|drager|tegrof|erocs|tcidrev|noitcurtsni", re.IGNORECASE)
_ROT13 = re.compile(r"vtaber|qvfertneq|sbetrg|fpber|ireqvpg|vafgehpgvba", re.IGNORECASE)


@dataclass(frozen=True)
class Defused:
    """An answer as it is shown to a judge, and what was wrong with it."""

    text: str
    flags: tuple[str, ...]


def clean(text: str) -> str:
    """Any string as text that can be stored and sent: lone surrogates become U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)


def defused(answer: str) -> Defused:
    """What a judge is shown of an answer: what speaks to the judge is cut out.

    Where that cannot be told apart from the rest, nothing of the answer is shown.
    """
    flags: set[str] = set()
    text = clean(answer)
    if len(text) > MAX_CHARS:
        text = text[:MAX_CHARS]
        flags.add("cut")
    if _PLANTED.search(text):
        flags.add("hidden")
    text = _CONTROL.sub(" ", text)
    found = flags_of(text)
    if not found and "hidden" not in flags:
        return Defused(text, tuple(sorted(flags)))
    flags |= found
    kept = _BLOCK.sub(_GAP, _UNSEEN.sub("", _TURNED.sub(_GAP, text.replace(_GAP, ""))))
    parts = [_GAP if _is_aimed(part) else part for part in _SEGMENT.findall(kept) if part]
    kept = _GAPS.sub(f" {REMOVED} ", "".join(parts))
    kept = " ".join(kept.split())
    if flags_of(kept.replace(REMOVED, " ")):
        kept = REMOVED
    return Defused(kept, tuple(sorted(flags)))


def flags_of(text: str) -> set[str]:
    """Which attacks a text holds, also behind escapes, look-alike letters, gaps or base64."""
    found: set[str] = set()
    for reading in _readings(text):
        found |= {flag for flag, finder in _FINDERS.items() if finder.search(reading)}
    return found


def _decoded(plain: str) -> Iterator[str]:
    """What a text says to a reader who decodes it."""
    for match in (*_BASE64.findall(plain), *_BASE64.findall("".join(plain.split()))):
        with contextlib.suppress(ValueError):
            yield base64.b64decode(match + "=" * (-len(match) % 4)).decode()
    for match in _HEX.findall(plain):
        with contextlib.suppress(ValueError):
            yield bytes.fromhex(match).decode()
    if _IN_WORD.search(plain):
        yield plain.translate(_LEET)
    if _BACKWARDS.search(plain):
        yield plain[::-1]
    if _ROT13.search(plain):
        yield codecs.encode(plain, "rot13")


def _is_aimed(part: str) -> bool:
    """Whether a part of an attack belongs to it: in such company less is needed than alone."""
    return bool(_ABOUT_JUDGING.search(part)) or bool(flags_of(part))


def _readings(text: str) -> set[str]:
    """The text as written, and as a reader may take it."""
    plain = unicodedata.normalize("NFKC", _BLANKS.sub(" ", _UNSEEN.sub("", text)))
    readings = {text, plain, plain.translate(_LOOKALIKES)}
    if "&" in plain or "%" in plain or "\\" in plain:
        unescaped = _ESCAPE.sub(lambda m: clean(chr(int(m[1] or m[2], 16))), unquote(html.unescape(plain)))
        readings |= {unescaped, unescaped.replace('\\"', '"').replace("\\n", "\n")}
    if _SPACED.search(plain):
        readings.add(_SPACED.sub(lambda m: re.sub(r"[ ._*-]", "", m[0]), plain))
    readings |= set(_decoded(plain))
    hidden = "".join(chr(ord(c) - 0xE0000) for c in text if 0xE0020 <= ord(c) <= 0xE007E)
    return readings | ({hidden} if hidden else set())

"""Vocabulary and text in which words are as unevenly frequent as in real text (Zipf's law)."""

from __future__ import annotations

from itertools import accumulate
from random import Random

_TEXT = (
    "the of and to in is for on that with as it by this from at or are be an was not have you can will all "
    "has more one their which about when there so up out use other time user data page system no if would each make "
    "how like into number see first been who its now find long down day did get come made may part over new sound take "
    "only little work know place year live back give most very after thing our just name good sentence man think say "
    "great where help through much before line right too mean old any same tell boy follow came want show also around "
    "form three small set put end does another well large must big even such because turn here why ask went men read "
    "need land different home us move try kind hand picture again change off play spell air away animal house point "
    "service request account order product price search result support contact policy cookie privacy terms customer "
    "delivery payment network device server client session update version release install download upload message "
    "connection interface address packet stream record field value table index query report status error warning "
    "metric sensor signal voltage current pressure temperature humidity battery threshold alarm window filter sample "
    "morning evening weather forecast market company quarter revenue growth energy power station valve pump motor line "
    "failed accepted rejected timeout retry started stopped opened closed queue worker process thread memory disk cache"
)
WORDS = _TEXT.split()
_WEIGHTS = list(accumulate(1 / (rank + 2.7) for rank in range(len(WORDS))))
_HOSTS = ("api", "www", "cdn", "mail", "static", "img", "auth", "edge", "db", "metrics", "login", "shop", "app", "ns1")
_ZONES = ("example.com", "example.net", "example.org", "corp.example", "cloud.example", "shop.example", "lab.test")


def words(rng: Random, count: int) -> list[str]:
    """``count`` words, frequent ones more often."""
    return rng.choices(WORDS, cum_weights=_WEIGHTS, k=count)


def text(rng: Random, size: int) -> str:
    """Running text of exactly ``size`` ASCII characters, with sentences, without newlines."""
    parts: list[str] = []
    have = 0
    while have < size:
        sentence = words(rng, 12)
        sentence[0] = sentence[0].capitalize()
        joined = " ".join(sentence[: rng.randrange(5, 13)]) + (", " if rng.random() < 0.3 else ". ")
        parts.append(joined)
        have += len(joined)
    return "".join(parts)[:size]


def hostname(rng: Random) -> str:
    """A name of a machine under a reserved domain (RFC 2606)."""
    first = rng.choice(_HOSTS)
    if rng.random() < 0.5:
        first += str(rng.randrange(1, 60))
    return f"{first}.{rng.choice(_ZONES)}"


def path(rng: Random) -> str:
    """A path of a URL, sometimes with a query."""
    parts = "/".join(words(rng, rng.randrange(1, 4)))
    return f"/{parts}?id={rng.randrange(10**6)}&sort={rng.choice(WORDS)}" if rng.random() < 0.4 else f"/{parts}"


def hexadecimal(rng: Random, digits: int) -> str:
    """Random lower-case hexadecimal digits."""
    return f"{rng.getrandbits(4 * digits):0{digits}x}"

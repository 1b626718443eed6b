"""Personal data in a text: e-mail addresses, telephone numbers, IP addresses and card numbers become placeholders.

What is taken for one, and what is not:

- e-mail: `local@domain.suffix`, also in Cyrillic, Greek and other alphabets; addresses in Chinese characters are not
  known. Names of image files (`icon@2x.png`) are none.
- IP: public IPv4 and IPv6 addresses. Private, reserved and documentation ranges name nobody and stay; so do four
  single digits (`1.2.3.4`: a version or a section far more often than one of 10,000 addresses) and what follows the
  word "version".
- card: 14 to 19 digits, bare or grouped as cards print them, with the prefix and length of an issuer and a right Luhn
  digit (ISO/IEC 7812).
- phone: what the `phonenumbers` library (Google's libphonenumber) holds for a valid number of the region that goes
  with the text's language, or in international form. Dates, spans of years, ISBNs and sums of money are no numbers;
  digits without a separator, or grouped in threes as sums are, need more: a mobile prefix, a leading + or a word such
  as "tel" before them. A run of more than 40 digits with blanks between them is a table.

Work is linear in the length of the text, and a text without digits and @ costs two searches.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.configuration.tag import Pii

PLACEHOLDERS = {"pii_emails": "<email>", "pii_ips": "<ip>", "pii_cards": "<card>", "pii_phones": "<phone>"}

_DIGIT = re.compile(r"\d")

# Two alphabets of an address: ASCII, or letters of the scripts that put blanks between words (Han and kana do not, so
# an address in the middle of a Chinese sentence ends where its ASCII ends).
_ASCII_LOCAL = re.compile(r"[A-Za-z0-9_%+'-](?:[A-Za-z0-9._%+'-]*[A-Za-z0-9_%+'-])?\Z")
_OTHER_LOCAL = re.compile("[\u00c0-\u1fffA-Za-z0-9](?:[\u00c0-\u1fffA-Za-z0-9._%+'-]*[\u00c0-\u1fffA-Za-z0-9])?\\Z")
_DOMAIN = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9_-])"
    "|(?:[\u00c0-\u1fffA-Za-z0-9-]{1,63}\\.){1,8}[\u00c0-\u1fffA-Za-z]{2,24}"
)
_LONGEST_LOCAL = 64
_FILES = frozenset(
    ("png", "jpg", "jpeg", "gif", "svg", "webp", "bmp", "ico", "css", "js", "json", "html", "htm", "php")
)

_IPV4 = re.compile(r"(?a:(?<![\w.-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w-]|\.[0-9]))")
_IPV6 = re.compile(r"(?a:(?<![\w:.])[23][0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{0,4}(?![\w:]))")
_VERSION = re.compile(r"(?:\b(?:v|ver|version|release|rev|build|верс\w*|вер)\.?|版本?号?)[\s:：]*\Z", re.IGNORECASE)

_CARD_RUN = re.compile(r"(?a:(?<![\w./=&#@+-])[0-9]{4,19}+(?:[ -][0-9]{2,19}+)*(?![\w@=&]))")
_CARD_GROUPS = frozenset(((4, 4, 4, 4), (4, 4, 4, 4, 3), (4, 6, 5), (4, 6, 4), (6, 13)))
# Prefixes, and the numbers of digits that go with them: Visa, Mastercard, American Express, Discover, Diners Club, JCB,
# UnionPay, Mir, the Maestro ranges still in use, RuPay.
_ISSUERS: tuple[tuple[re.Pattern[str], frozenset[int]], ...] = tuple(
    (re.compile(prefix), frozenset(lengths))
    for prefix, lengths in (
        (r"4", (16, 19)),
        (r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720", (16,)),
        (r"3[47]", (15,)),
        (r"6011|64[4-9]|65", (16, 19)),
        (r"30[0-5]|3[689]", (14, 16, 19)),
        (r"35(?:2[89]|[3-8])", (16, 19)),
        (r"62", (16, 17, 18, 19)),
        (r"220[0-4]", (16, 17, 18, 19)),
        (r"5018|5020|5038|5893|6304|6759|676[1-3]", (16, 17, 18, 19)),
        (r"508|60|8[12]", (16,)),
    )
)

_SEPARATORS = r" \u00a0\u202f().（）/‐‑–—－-"
_PHONE_RUN = re.compile(rf"(?<![A-Za-z0-9_=&#%/@])[+＋]?[(（]?\d(?:[{_SEPARATORS}]{{0,3}}\d)*+(?![\d_%@])")
_EXTENSION = re.compile(r"[ ,;]{0,2}(?:x|ext\.?|доб\.?|转|轉|内線)[ :]?\d{1,6}(?!\d)", re.IGNORECASE)
_FEWEST_DIGITS, _MOST_DIGITS = 7, 40
_DATE = re.compile(
    r"(?<!\d)(?:\d{4}([-./])\d{1,2}\1\d{1,2}|\d{1,2}([-./])\d{1,2}\2\d{4}|(?:1\d|20)\d\d ?[-–—/] ?(?:1\d|20)\d\d)(?!\d)"
)
_GROUPED_IN_THREES = re.compile(r"\d{1,3}(?:[ .\u00a0\u202f]\d{3})+\Z")
_ISBN_10 = re.compile(r"\d{1,5}([- ])\d{1,7}\1\d{1,7}\1\d\Z")
_ISBN_CUE = re.compile(r"IS[BS]N(?:-1[03])?[\s:：]*\Z", re.IGNORECASE)
_PHONE_CUE = re.compile(
    r"(?:\b(?:tel|phone|telephone|call|fax|mobile|cell|whatsapp|t[ée]l[ée]phone|telefono?|tlf|handy|mobil)"
    r"|тел|факс|моб|звон|电话|電話|手机|手機|传真|傳真|致电|热线|熱線|联系|携帯|전화)[^\d\n]{0,12}\Z",
    re.IGNORECASE,
)
_MONEY_BEFORE = re.compile(r"(?:[$€£¥₽₴₸₩₹￥฿₺₫]|\b(?:USD|EUR|GBP|RUB|CNY|RMB|JPY|CHF))\s?\Z")
_MONEY_AFTER = re.compile(
    r"\s?(?:[$€£¥₽₴₸₩₹￥฿₺₫%‰元圆圓万萬亿億块塊円원]|美元|人民币|港币|欧元|卢布|руб|р\.|тыс|млн|млрд|коп|долл|евро"
    r"|(?:USD|EUR|GBP|RUB|CNY|RMB|JPY|CHF|dollars?|euros?|pounds?|roubles?|rubles?|yuan|yen|million|billion)\b)",
    re.IGNORECASE,
)
_CUE_CHARACTERS = 24  # that are looked at before a number


class Scrubber:
    """Replaces personal data in texts by the placeholders of `settings`."""

    def __init__(self, settings: Pii) -> None:
        self._regions: dict[str, str | None] = {}
        self._finders: list[tuple[str, Callable[[str, str], Iterator[tuple[int, int]]]]] = []
        # Cards before phones: some card numbers begin like a telephone number.
        for wanted, name, find in (
            (settings.email, "pii_emails", _emails),
            (settings.ip, "pii_ips", _addresses),
            (settings.card, "pii_cards", _cards),
            (settings.phone, "pii_phones", self._phones),
        ):
            if wanted:
                self._finders.append((name, find))

    def __call__(self, text: str, language: str) -> tuple[str, dict[str, int]]:
        """The text with placeholders, and how many of each kind were put there (0 for kinds that were not found).

        `language` (ISO 639-1) says by which country's plan telephone numbers are read; "und" leaves the international form.
        """
        counts = dict.fromkeys((name for name, _ in self._finders), 0)
        if not _DIGIT.search(text) and "@" not in text:
            return text, counts
        for name, find in self._finders:
            pieces, end = [], 0
            for start, stop in find(text, language):
                pieces += [text[end:start], PLACEHOLDERS[name]]
                end = stop
                counts[name] += 1
            if pieces:
                text = "".join([*pieces, text[end:]])
        return text, counts

    def _phones(self, text: str, language: str) -> Iterator[tuple[int, int]]:
        if language not in self._regions:
            from components.corpus.language_facts import facts

            self._regions[language] = facts(language).phone_region
        region = self._regions[language]
        for found in _PHONE_RUN.finditer(text):
            run = found[0]
            if len(run) < _FEWEST_DIGITS or not _FEWEST_DIGITS <= sum(map(str.isdigit, run)) <= _MOST_DIGITS:
                continue
            if region is None and run[0] not in "+＋":
                continue
            yield from _phones_of_run(text, found.start(), found.end(), region)


def _emails(text: str, language: str) -> Iterator[tuple[int, int]]:
    at, end = text.find("@"), 0
    while at >= 0:
        domain = _DOMAIN.match(text, at + 1)
        before = text[max(end, at - _LONGEST_LOCAL) : at]
        if domain and domain[0].rpartition(".")[2].lower() not in _FILES:
            local = _last(_ASCII_LOCAL if before[-1:].isascii() else _OTHER_LOCAL, before)
            if local:
                end = domain.end()
                yield at - local, end
        at = text.find("@", max(at + 1, end))


def _last(pattern: re.Pattern[str], before: str) -> int:
    """How many characters at the end of `before` the pattern matches; 0 where it does not."""
    found = pattern.search(before)
    return len(before) - found.start() if found else 0


def _addresses(text: str, language: str) -> Iterator[tuple[int, int]]:
    found = [match for match in _IPV4.finditer(text) if _is_address(text, match)]
    if "::" in text or text.count(":") >= 7:
        found += [match for match in _IPV6.finditer(text) if _is_address(text, match)]
        found.sort(key=re.Match.start)
    yield from (match.span() for match in found)


def _is_address(text: str, match: re.Match[str]) -> bool:
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:
        return False
    if not address.is_global or address.is_multicast:
        return False
    if address.version == 6:
        return True
    return len(match[0]) > 7 and not _VERSION.search(text, max(0, match.start() - _CUE_CHARACTERS), match.start())


def _cards(text: str, language: str) -> Iterator[tuple[int, int]]:
    for run in _CARD_RUN.finditer(text):
        if len(run[0]) < 14:
            continue
        groups = [(match.start(), match[0]) for match in re.finditer("[0-9]+", run[0])]
        index = 0
        while index < len(groups):
            for count in (5, 4, 3, 2, 1):
                taken = [digits for _, digits in groups[index : index + count]]
                if len(taken) == count and _is_card(taken):
                    last = groups[index + count - 1]
                    yield run.start() + groups[index][0], run.start() + last[0] + len(last[1])
                    index += count
                    break
            else:
                index += 1


def _is_card(groups: list[str]) -> bool:
    if len(groups) > 1 and tuple(map(len, groups)) not in _CARD_GROUPS:
        return False
    digits = "".join(groups)
    if not any(len(digits) in lengths and prefix.match(digits) for prefix, lengths in _ISSUERS):
        return False
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2]]
    return (sum(map(int, digits[::-2])) + sum(doubled)) % 10 == 0


def _phones_of_run(text: str, start: int, stop: int, region: str | None) -> Iterator[tuple[int, int]]:
    """Telephone numbers in text[start:stop], which is digits and separators.

    The library sees one character on either side (it refuses what stands beside a letter or a currency), and dates blotted out.
    """
    from phonenumbers import Leniency, PhoneNumberMatcher, PhoneNumberType, number_type

    before = text[max(0, start - _CUE_CHARACTERS) : start]
    run = _DATE.sub(lambda match: "\n" * len(match[0]), text[start:stop])
    if _MONEY_BEFORE.search(before) or _MONEY_AFTER.match(text, stop) or _is_isbn(run, before):
        return
    cue = bool(_PHONE_CUE.search(before))
    left = text[start - 1 : start] if start else ""
    extension = _EXTENSION.match(text, stop)
    window = left + run + (extension[0] if extension else text[stop : stop + 1])
    for match in PhoneNumberMatcher(window, region, leniency=Leniency.STRICT_GROUPING):
        begin, end = match.start - len(left), match.end - len(left)
        if begin < 0 or begin >= len(run):
            continue
        number = run[begin:end]
        plain = number.isdigit() or _GROUPED_IN_THREES.match(number)
        if plain and not cue and number_type(match.number) != PhoneNumberType.MOBILE:
            continue
        if _GROUPED_IN_THREES.match(number) and not cue:
            continue
        yield start + begin, start + end


def _is_isbn(run: str, before: str) -> bool:
    if _ISBN_CUE.search(before):
        return True
    digits = [int(character) for character in run if character.isdigit()]
    if len(digits) == 13 and digits[:3] in ([9, 7, 8], [9, 7, 9]):
        return sum(digits[::2] + [3 * digit for digit in digits[1::2]]) % 10 == 0
    if len(digits) == 10 and _ISBN_10.match(run):
        return sum(place * digit for place, digit in zip(range(10, 0, -1), digits, strict=True)) % 11 == 0
    return False

"""What is measured on documents: the names that `tag` fills, rules of a policy bound, and the data card shows.

A statistic says nothing by itself; a policy (`components/corpus/policies`) bounds it. All are numbers, null where not measured.
Definitions follow Rae et al. 2021 (Gopher, table A1), Raffel et al. 2020 (C4) and Penedo et al. 2024 (FineWeb), with words being
characters where the language does not divide them by blanks, and every share lying between 0 and 1.
"""

from __future__ import annotations

from dataclasses import dataclass

# Bins of lengths in characters, for histograms: each begins at one of these and ends before the next.
LENGTH_EDGES = (0, *(step * 10**power for power in range(12) for step in (1, 2, 5)))


@dataclass(frozen=True)
class Statistic:
    """One statistic: its family (`tag.families`, or the part of `tag` that fills it), what it is, and how to print it."""

    family: str
    phrase: str  # completes "its <phrase> is 12 %"
    unit: str = "share"  # share | count | bits | score

    def show(self, value: float) -> str:
        """The value as a person would write it."""
        if self.unit == "share":
            return f"{value:.3g}" if value > 1 else f"{100 * value:.3g} %"
        if self.unit == "count":
            return f"{value:,.4g}" if value % 1 else f"{value:,.0f}"
        return f"{value:.3g}"


def _counts(n: int) -> str:
    return f"share of characters in {n}-grams of words that occur more than once"


STATISTICS: dict[str, Statistic] = {
    # any language: Unicode categories and lines
    "characters": Statistic("shape", "number of characters", "count"),
    "letters": Statistic("shape", "share of letters, marks and digits among characters"),
    "symbols": Statistic(
        "shape", "share of characters that are neither letters, marks, digits, punctuation nor blanks"
    ),
    "digits": Statistic("shape", "share of digits among characters"),
    "upper_case": Statistic("shape", "share of capitals among letters"),
    "lines": Statistic("shape", "number of lines that are not blank", "count"),
    "repeated_lines": Statistic("shape", "share of lines that repeat an earlier line"),
    "longest_run": Statistic("shape", "longest run of one character", "count"),
    "longest_line": Statistic("shape", "longest line in characters", "count"),
    # Gopher's quality rules
    "words": Statistic("words", "number of words", "count"),
    "mean_word_length": Statistic("words", "mean length of words in characters", "count"),
    "hashes_and_ellipses": Statistic("words", "larger of hash marks and ellipses per word"),
    "bullet_lines": Statistic("words", "share of lines that begin with a bullet"),
    "ellipsis_lines": Statistic("words", "share of lines that end with an ellipsis"),
    "alphabetic_words": Statistic("words", "share of words with a letter in them"),
    "stop_words": Statistic("words", "number of different stop words of the language", "count"),
    "language_score": Statistic("language", "certainty of the language"),
    # Gopher's repetition rules
    "duplicate_lines": Statistic("repetition", "share of lines that repeat an earlier line, blank ones included"),
    "duplicate_line_characters": Statistic("repetition", "share of characters in duplicate lines"),
    "duplicate_paragraphs": Statistic("repetition", "share of paragraphs that are duplicates of another paragraph"),
    "duplicate_paragraph_characters": Statistic("repetition", "share of characters in duplicate paragraphs"),
    "top_2gram": Statistic("repetition", "share of characters in the most frequent 2-gram of words"),
    "top_3gram": Statistic("repetition", "share of characters in the most frequent 3-gram of words"),
    "top_4gram": Statistic("repetition", "share of characters in the most frequent 4-gram of words"),
    **{f"duplicate_{n}grams": Statistic("repetition", _counts(n)) for n in range(5, 11)},
    # C4 and FineWeb
    "punctuated_lines": Statistic("web", "share of lines that end as a sentence does"),
    "short_lines": Statistic("web", "share of lines of at most 30 characters (10 where words are characters)"),
    "newlines_per_word": Statistic("web", "number of line ends per word"),
    "sentences": Statistic("web", "number of sentences", "count"),
    "braces": Statistic("web", "number of curly braces", "count"),
    "placeholder_text": Statistic("web", "number of times that it says lorem ipsum", "count"),
    "lines_taken_out": Statistic("web", "share of lines that were taken out (tag.lines)"),
    # verse and dialogue
    "regular_lines": Statistic("verse", "share of lines that have the most frequent line length in letters"),
    "mean_line_length": Statistic("verse", "mean length of lines in letters", "count"),
    "speech_lines": Statistic(
        "dialogue", "share of lines that begin as speech does (a dash, a quotation mark, a name and a colon)"
    ),
    "longest_turn": Statistic("dialogue", "share of characters in the longest turn of speech"),
    # repairs, personal data, scores
    "mojibake_repaired": Statistic(
        "shape", "number of characters that had been decoded wrongly and were repaired", "count"
    ),
    "pii_emails": Statistic("pii", "number of e-mail addresses replaced", "count"),
    "pii_phones": Statistic("pii", "number of telephone numbers replaced", "count"),
    "pii_ips": Statistic("pii", "number of IP addresses replaced", "count"),
    "pii_cards": Statistic("pii", "number of card numbers replaced", "count"),
    "substrings": Statistic("duplicates", "share of characters in passages that an earlier document holds"),
    "perplexity": Statistic("perplexity", "Kneser-Ney score in bits per character", "bits"),
    "quality": Statistic("quality", "quality by the classifier", "score"),
    "judge": Statistic("judge", "score from 0 to 5 by the language model that was asked", "score"),
    "typicality": Statistic("topics", "nearness to the centre of its topic (cosine)", "score"),
}

"""Compiled parsing of the lines of an ARPA file."""

import numpy as np

from unheard.compiled import inner, kernel

DONE, SECTION, SYNTAX, NUMBER, POSITIVE, UNKNOWN_WORD, LAST_BACKOFF = range(7)
"""How `parse_ngrams` ended: at the end of the text, before a line that begins with a backslash, or
at a line that is wrong."""

_LN_10 = np.log(10.0)
_SPACE, _TAB, _NEWLINE, _RETURN = 32, 9, 10, 13
_BACKSLASH, _PLUS, _MINUS, _POINT, _ZERO = 92, 43, 45, 46, 48
_MOST_DIGITS = 18


@inner
def _hash(text, start, end):
    """FNV-1a of some bytes, with the upper half mixed into the lower."""
    value = np.uint64(14695981039346656037)
    for place in range(start, end):
        value = (value ^ np.uint64(text[place])) * np.uint64(1099511628211)
    return np.int64((value ^ (value >> np.uint64(32))) & np.uint64(0x7FFFFFFF))


@kernel
def fill_slots(letters, bounds, slots):
    """Enter words into a hash table.

    Args:
        letters: uint8, the words one after the other.
        bounds: int64 (words + 1,), where each begins.
        slots: int32, a power of two of them, all -1; gets the number of a word or stays -1.
    """
    mask = slots.shape[0] - 1
    for number in range(bounds.shape[0] - 1):
        slot = _hash(letters, bounds[number], bounds[number + 1]) & mask
        while slots[slot] >= 0:
            slot = (slot + 1) & mask
        slots[slot] = number


@inner
def _find_word(text, start, end, letters, bounds, slots):
    """Number of the word that stands at some place of a text, or -1."""
    mask = slots.shape[0] - 1
    slot = _hash(text, start, end) & mask
    while slots[slot] >= 0:
        number = slots[slot]
        first = bounds[number]
        if bounds[number + 1] - first == end - start:
            place = start
            while place < end and text[place] == letters[first + place - start]:
                place += 1
            if place == end:
                return number
        slot = (slot + 1) & mask
    return np.int32(-1)


@kernel
def parse_number(text, start, end):
    """Read a decimal number; anything else, such as "nan", is no number.

    Returns:
        The number, and whether it is one.
    """
    place = start
    negative = False
    if place < end and (text[place] == _MINUS or text[place] == _PLUS):
        negative = text[place] == _MINUS
        place += 1
    digits, kept, scale = 0, np.int64(0), 0
    seen_point = False
    used = 0
    while place < end:
        letter = text[place]
        if letter == _POINT and not seen_point:
            seen_point = True
        elif _ZERO <= letter <= _ZERO + 9:
            digits += 1
            if used < _MOST_DIGITS:
                kept = kept * 10 + np.int64(letter - _ZERO)
                used += kept > 0
                scale -= seen_point
            else:
                scale += not seen_point
        else:
            break
        place += 1
    if digits == 0:
        return 0.0, False
    if place < end:
        if text[place] != 101 and text[place] != 69:  # e, E
            return 0.0, False
        place += 1
        sign = 1
        if place < end and (text[place] == _MINUS or text[place] == _PLUS):
            sign = -1 if text[place] == _MINUS else 1
            place += 1
        if place == end:
            return 0.0, False
        exponent = 0
        while place < end:
            letter = text[place]
            if not _ZERO <= letter <= _ZERO + 9:
                return 0.0, False
            exponent = min(exponent * 10 + np.int64(letter - _ZERO), 10_000)
            place += 1
        scale += sign * exponent
    # Powers of ten up to 22 are exact, so that the quotient is rounded once.
    value = np.float64(kept)
    if -22 <= scale < 0:
        value = value / 10.0 ** (-scale)
    elif scale != 0 and kept != 0:
        value = value * 10.0 ** np.float64(scale)
    return (-value if negative else value), True


@kernel
def parse_ngrams(text, order, longest, letters, bounds, slots, words, log_probs, backoffs):
    """Read lines "log10 probability, words, log10 back-off", fields parted by spaces or tabs.

    Args:
        text: uint8, whole lines.
        order: words of each n-gram.
        longest: whether these are the longest n-grams, which have no back-off.
        letters: vocabulary, as `fill_slots` has it.
        bounds: the same.
        slots: the same.
        words: int32 (lines, order), filled.
        log_probs: float32 (lines,), filled [nats].
        backoffs: float32 (lines,), filled [nats].

    Returns:
        How it ended, the place in the text where the last line looked at begins, and the number
        of n-grams read.
    """
    size = text.shape[0]
    line = 0
    row = 0
    while line < size:
        stop = line
        while stop < size and text[stop] != _NEWLINE:
            stop += 1
        place = line
        end = stop
        while end > place and (
            text[end - 1] == _RETURN or text[end - 1] == _SPACE or text[end - 1] == _TAB
        ):
            end -= 1
        field = 0
        while place < end:
            while text[place] == _SPACE or text[place] == _TAB:
                place += 1
            start = place
            while place < end and text[place] != _SPACE and text[place] != _TAB:
                place += 1
            if field == 0 and text[start] == _BACKSLASH:
                return SECTION, line, row
            if field == 0 or field == order + 1:
                value, sound = parse_number(text, start, place)
                if not sound or not np.isfinite(value * _LN_10):
                    return NUMBER, line, row
                if field == 0:
                    if value > 0.0:
                        return POSITIVE, line, row
                    log_probs[row] = value * _LN_10
                    backoffs[row] = 0.0
                elif longest and value != 0.0:
                    return LAST_BACKOFF, line, row
                else:
                    backoffs[row] = value * _LN_10
            elif field <= order:
                number = _find_word(text, start, place, letters, bounds, slots)
                if number < 0:
                    return UNKNOWN_WORD, line, row
                words[row, field - 1] = number
            else:
                return SYNTAX, line, row
            field += 1
        if field > 0:
            if field <= order:
                return SYNTAX, line, row
            row += 1
        line = stop + 1
    return DONE, size, row

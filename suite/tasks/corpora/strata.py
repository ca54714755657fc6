"""Strata of text: what kind of token each byte is, from the bytes alone, so that a loss can be shared out among kinds.

Each partition of STRATA puts a target of a window into exactly one stratum, by the rule that stands beside it. Syntax
and names are read from the beginning of the document, uses and repetitions within the window: what a model has seen.
Where documents are kept apart (--reset) a repetition is one within the document.
"""

import itertools
import keyword
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

ORDER = 8  # bytes of a run that counts as repeated, its last one the target; eight fill a uint64
DISTANCES = (16, 64, 256, 1024)  # bytes from where a name begins back to where its last use does

SYNTAX = {
    "comment": "From # to the end of the line.",
    "string": "A string literal with its prefix and quotes, docstrings too.",
    "name": "Letters, digits and underscores that begin with no digit and are no keyword.",
    "digits": "A number, from a digit on.",
    "opening_bracket": "One of ( [ {.",
    "closing_bracket": "One of ) ] }.",
    "indentation": "Blanks at the beginning of a line.",
    "newline": "The end of a line.",
    "space": "Blanks within a line.",
    "operator": "Any other byte.",
    "keyword": "A reserved word of Python.",
    "end": "The zero byte that ends a document.",
}
REPETITION = {
    "continued": f"The byte and the {ORDER - 1} before it stood together in the window before.",
    "broken": f"The {ORDER - 1} bytes before it stood in the window before, and it never followed them.",
    "new": f"The {ORDER - 1} bytes before it did not stand in the window before, or begin before the window.",
}
NAMES = {
    "first_use": "A byte of a name that does not begin earlier in the window, in this document.",
    **{
        f"reused_within_{far}": f"A byte of a name whose last use began less than {far} bytes back."
        for far in DISTANCES
    },
    "reused_farther": f"A byte of a name whose last use began {DISTANCES[-1]} bytes back or more.",
    "no_name": "A byte of no name.",
}
STRATA = {"syntax": SYNTAX, "repetition": REPETITION, "names": NAMES}

STRING = rb"""(?i:rb|br|fr|rf|[rbfu])?(?:
    \"\"\"[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*(?:\"\"\"|\\?\Z)
    |'''[^'\\]*(?:(?:\\.|'(?!''))[^'\\]*)*(?:'''|\\?\Z)
    |"[^"\\\n]*(?:\\.[^"\\\n]*)*"?
    |'[^'\\\n]*(?:\\.[^'\\\n]*)*'?
)"""
WORDS = (
    *(rb"[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*", rb"[0-9][A-Za-z0-9_.]*", rb"[(\[{]", rb"[)\]}]"),
    *(rb"^[ \t]+", rb"[\r\n]+", rb"[ \t\f\v]+", rb"."),
)
# A group for each kind of SYNTAX in its order; a document falls into such tokens without a gap.
PYTHON, PROSE = (
    re.compile(b"|".join(b"(%b)" % one for one in tokens), re.DOTALL | re.MULTILINE | re.VERBOSE)
    for tokens in ((rb"\#[^\n]*", STRING, *WORDS), (rb"(?!)", rb"(?!)", *WORDS))
)
NAME, KEYWORD, END = map([*SYNTAX].index, ("name", "keyword", "end"))
KEYWORDS = {word.encode() for word in keyword.kwlist}


class Document(NamedTuple):
    """Of each byte of a document, its end included: its syntax, where its name begins, and where that one's last use.

    -1 where there is no name or no use before.
    """

    syntax_N: np.ndarray  # int8, an index of SYNTAX
    name_N: np.ndarray  # int32
    last_N: np.ndarray  # int32


class Strata(NamedTuple):
    """Of each target of a batch of windows its document, of `documents` in all, and its stratum in each partition."""

    documents: int
    document_BT: np.ndarray  # int64
    of_partition: dict[str, np.ndarray]  # int8 (B, T), an index of STRATA[partition]


def of_document(text: bytes, *, python: bool) -> Document:
    """Reads a document from its beginning; without `python` it has no comments, strings and keywords."""
    tokens = [(match.lastindex, match.start()) for match in (PYTHON if python else PROSE).finditer(text)]
    group_M, start_M = np.asarray(tokens, np.int32).reshape(-1, 2).T
    length_M = np.diff(start_M, append=np.int32(len(text)))
    syntax_M, name_M, last_M = (group_M - 1).astype(np.int8), *np.full((2, len(tokens)), -1, np.int32)
    last: dict[bytes, int] = {}
    for token in np.flatnonzero(syntax_M == NAME).tolist():
        start = tokens[token][1]
        name = text[start : start + length_M[token]]
        if python and name in KEYWORDS:
            syntax_M[token] = KEYWORD
        else:
            name_M[token], last_M[token] = start, last.setdefault(name, -1)
            last[name] = start
    columns = ((syntax_M, END), (name_M, -1), (last_M, -1))
    return Document(*(np.repeat(np.append(of_M, of_M.dtype.type(end)), [*length_M, 1]) for of_M, end in columns))


def of_windows(
    text_N: np.ndarray,
    starts_D: np.ndarray,
    offset_B: np.ndarray,
    length: int,
    document: Callable[[int], Document],
    *,
    reset: bool = False,
) -> Strata:
    """The strata of the `length` targets of the windows that begin at these offsets of a split's bytes.

    Documents begin at `starts_D`; `document` reads the one of a number. With `reset` none sees another.
    """
    at_BS = offset_B[:, None] + np.arange(length + 1)
    document_BS = np.searchsorted(starts_D, at_BS, side="right") - 1
    at_BT, document_BT = at_BS[:, 1:], document_BS[:, 1:]
    syntax_BT, names_BT = np.zeros(at_BT.shape, np.int8), np.zeros(at_BT.shape, np.int8)
    for row, number in ((row, number) for row, of_row in enumerate(document_BT) for number in np.unique(of_row)):
        here_T = document_BT[row] == number
        read, at_K = document(int(number)), at_BT[row, here_T] - starts_D[number]
        syntax_BT[row, here_T] = read.syntax_N[at_K]
        first_seen = max(0, int(offset_B[row] - starts_D[number]))
        names_BT[row, here_T] = _names(read.name_N[at_K], read.last_N[at_K], first_seen)
    windows_BS = text_N[at_BS]
    repetition_BT = _repetition_within(windows_BS, document_BS) if reset else repetition(windows_BS)
    partitions = {"syntax": syntax_BT, "repetition": repetition_BT, "names": names_BT}
    return Strata(len(starts_D), document_BT, partitions)


def repetition(windows_BS: np.ndarray) -> np.ndarray:
    """The stratum of REPETITION of every byte of a window but the first, (B, S - 1)."""
    continued, broken, new = range(len(REPETITION))
    stratum_BT = np.full((len(windows_BS), windows_BS.shape[1] - 1), new, np.int8)
    if windows_BS.shape[1] >= ORDER:
        runs_BMK = np.lib.stride_tricks.sliding_window_view(windows_BS.astype(np.uint8), ORDER, axis=1)
        run_BM = np.ascontiguousarray(runs_BMK).view(">u8")[..., 0].astype(np.uint64)
        of_runs_BM = np.where(_stood_before(run_BM >> np.uint64(8)), np.int8(broken), np.int8(new))
        stratum_BT[:, ORDER - 2 :] = np.where(_stood_before(run_BM), np.int8(continued), of_runs_BM)
    return stratum_BT


def _repetition_within(windows_BS: np.ndarray, document_BS: np.ndarray) -> np.ndarray:
    """The same where what stands before a document is not seen: its first byte repeats nothing."""
    stratum_BT = np.full((len(windows_BS), windows_BS.shape[1] - 1), [*REPETITION].index("new"), np.int8)
    for window_S, document_S, stratum_T in zip(windows_BS, document_BS, stratum_BT, strict=True):
        begins = np.flatnonzero(np.diff(document_S)) + 1
        for first, last in itertools.pairwise([0, *begins, len(window_S)]):
            stratum_T[first : last - 1] = repetition(window_S[None, first:last])[0]
    return stratum_BT


def _names(name_K: np.ndarray, last_K: np.ndarray, first_seen: int) -> np.ndarray:
    """The stratum of NAMES of bytes of one document, of which the window has those from `first_seen` on."""
    first, nearest, *_, none = range(len(NAMES))
    used_K = nearest + np.searchsorted(DISTANCES, name_K - last_K, side="right")
    return np.where(name_K < 0, none, np.where(last_K < first_seen, first, used_K)).astype(np.int8)


def _stood_before(code_BM: np.ndarray) -> np.ndarray:
    """Whether the same number stands earlier in the row."""
    order_BM = np.argsort(code_BM, axis=1, kind="stable")
    sorted_BM = np.take_along_axis(code_BM, order_BM, axis=1)
    before_BM = np.zeros(code_BM.shape, bool)
    np.put_along_axis(before_BM, order_BM[:, 1:], sorted_BM[:, 1:] == sorted_BM[:, :-1], axis=1)
    return before_BM

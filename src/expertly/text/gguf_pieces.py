"""SentencePiece's scores as merges: two pieces join to the best piece that they spell."""

from collections.abc import Mapping, Sequence

from expertly.text.gguf_entries import NORMAL, Entries, damaged

# the largest vocabularies have 2 million characters, and pieces of 48 at most
MAX_CHARACTERS = 1 << 22
MAX_PIECE = 512
MAX_MERGES = 1 << 20  # twice what the largest have


def merges_of(entries: Entries, scores: Sequence[float]) -> list[tuple[str, str]]:
    """Every way to join two pieces to a third, the one of the highest score first.

    Raises CheckpointError for more text than any vocabulary has: the work is a multiple of it.
    """
    id_of = {entries.tokens[i]: i for i in entries.ids_of_type(NORMAL)}
    _check_size(id_of)
    lengths = sorted({len(piece) for piece in id_of})
    found = []
    for piece, token_id in id_of.items():
        for left, right in _splits(piece, id_of, lengths):
            found.append((-scores[token_id], token_id, id_of[left], id_of[right]))
        if len(found) > MAX_MERGES:
            raise damaged(f"its pieces join in more than {MAX_MERGES} ways")
    found.sort()
    return [(entries.tokens[left], entries.tokens[right]) for _, _, left, right in found]


def _splits(piece: str, id_of: Mapping[str, int], lengths: Sequence[int]) -> list[tuple[str, str]]:
    found = []
    for length in lengths:
        if length >= len(piece):
            break
        left, right = piece[:length], piece[length:]
        if left in id_of and right in id_of:
            found.append((left, right))
    return found


def _check_size(id_of: Mapping[str, int]) -> None:
    longest = max(map(len, id_of), default=0)
    if longest > MAX_PIECE:
        raise damaged(f"one of its pieces has {longest} characters, more than {MAX_PIECE}")
    total = sum(map(len, id_of))
    if total > MAX_CHARACTERS:
        raise damaged(f"its pieces have {total} characters, more than {MAX_CHARACTERS}")

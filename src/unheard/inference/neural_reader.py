"""A Transformer language model that reads many texts, each a little longer than one before.

A search asks again and again about the beginnings of its readings. What they have in common is
read once: pieces are nodes of a tree, and every node that something followed keeps its keys and
values, so that a further piece costs one step of the network, whatever stands before it.
"""

import threading
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from unheard.inference.neural_model import NeuralModel, overlap_step, stretch_starts
from unheard.lm.pieces import END_ID, START_ID

KEPT_BYTES = 1 << 28
"""Keys and values that are kept though no recent text needs them."""
BATCH_PLACES = 1 << 14
"""Places that a step of the network attends to at once, padding counted."""
_FIRST_ROOM = 256
_COLUMNS = ("_parent", "_token", "_place", "_total", "_row", "_used")


class NeuralReader:
    """Scores texts and beginnings of texts as `NeuralModel` scores texts, up to rounding.

    What was read is kept for the next call, within `KEPT_BYTES` and what one call needs. Threads
    may share a reader: they take turns.
    """

    def __init__(self, model: NeuralModel) -> None:
        """Begin with nothing read.

        Args:
            model: the language model.
        """
        self.model = model
        self._turn = threading.Lock()
        self._tree = _Tree(model)

    def forget(self) -> None:
        """Begin again with nothing read."""
        with self._turn:
            self._tree = _Tree(self.model)

    def score_sentences(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the log-probabilities of texts, their ends included, (texts,) [nats]."""
        return self._score(texts, [END_ID])

    def score_beginnings(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the log-probability that a text begins with each of these, (texts,) [nats].

        White space parts words, and each is taken for a whole word. The score of a word is that
        of its pieces; that it does not go on is part of the score of what follows it.
        """
        return self._score(texts, [])

    def _score(self, texts: Sequence[str], end: list[int]) -> NDArray[np.float64]:
        """Score texts with an end or without."""
        encode = self.model.bundle.pieces.encode
        different = list(dict.fromkeys(texts))
        with self._turn:
            totals = self._tree.read([[START_ID, *encode(text), *end] for text in different])
        found = dict(zip(different, totals, strict=True))
        return np.array([found[text] for text in texts], dtype=np.float64)


class _Tree:
    """Pieces that were read, each after what stands before it.

    A text longer than the model's context is read in stretches, as `NeuralModel` does; a stretch
    is a line of nodes of its own, from the root.

    Node 0 is the root, before any text; a parent comes before its children. For each node:
    `parent`; `token`; `place` in its stretch; `total`, the log-probability of its piece and those
    before it in the stretch, the first left out (NaN until known); `row` of its keys and values
    (-1 until something follows it); `used`, the last call that needed it.
    """

    def __init__(self, model: NeuralModel) -> None:
        self._network = model.bundle.model
        config = self._network.config
        self._context, self._vocab = config.context, config.vocab
        self._device = self._network.embedding.weight.device
        self._child: dict[int, int] = {}
        self._nodes = 1
        self._rows = 0
        self._call = 0
        self._parent = np.zeros(_FIRST_ROOM, np.int64)
        self._token = np.zeros(_FIRST_ROOM, np.int64)
        self._place = np.full(_FIRST_ROOM, -1, np.int64)
        self._total = np.zeros(_FIRST_ROOM)
        self._row = np.full(_FIRST_ROOM, -1, np.int64)
        self._used = np.zeros(_FIRST_ROOM, np.int64)
        like = {"dtype": self._network.embedding.weight.dtype, "device": self._device}
        self._keys = torch.zeros(config.layers, _FIRST_ROOM, config.dim, **like)
        self._values = torch.zeros(config.layers, _FIRST_ROOM, config.dim, **like)
        self._hidden = torch.zeros(_FIRST_ROOM, config.dim, **like)
        self._scale = torch.zeros(_FIRST_ROOM, dtype=torch.float32, device=self._device)
        row_bytes = (2 * config.layers + 1) * config.dim * self._keys.element_size()
        self._kept_rows = max(_FIRST_ROOM, KEPT_BYTES // row_bytes)

    def read(self, texts: Sequence[Sequence[int]]) -> list[float]:
        """Return the log-probability of each text's tokens, the first left out [nats]."""
        self._call += 1
        if self._rows > self._kept_rows:
            self._forget()
        step = overlap_step(self._context)
        lines: list[tuple[list[int], Sequence[int]]] = []
        sums: list[list[tuple[int, int]]] = []
        for tokens in texts:
            parts: list[tuple[int, int]] = []
            for first in stretch_starts(len(tokens) - 1, self._context):
                stretch = tokens[first : first + self._context + 1]
                line = self._line(stretch)
                lines.append((line, stretch))
                # Only the first stretch of a text is new in its first half.
                parts.append((line[0 if first == 0 else self._context - step], line[-1]))
            sums.append(parts)
        self._complete(lines)
        total = self._total
        return [float(sum(total[last] - total[first] for first, last in part)) for part in sums]

    def _line(self, tokens: Sequence[int]) -> list[int]:
        """Return the nodes of a stretch; make those that are new."""
        child, vocab = self._child, self._vocab
        node = 0
        line: list[int] = []
        for token in tokens:
            key = node * vocab + token
            found = child.get(key)
            if found is None:
                found = child[key] = self._add(node, token)
            node = found
            line.append(node)
        self._used[line] = self._call
        return line

    def _add(self, parent: int, token: int) -> int:
        """Make a node; its total is not known, unless it is the first of a stretch."""
        node = self._nodes
        if node == len(self._parent):
            for name in _COLUMNS:
                column = getattr(self, name)
                setattr(self, name, np.concatenate((column, np.zeros_like(column))))
        self._nodes += 1
        self._parent[node] = parent
        self._token[node] = token
        self._place[node] = self._place[parent] + 1
        self._total[node] = 0.0 if parent == 0 else np.nan
        self._row[node] = -1
        return node

    def _complete(self, lines: Sequence[tuple[list[int], Sequence[int]]]) -> None:
        """Find the totals of all nodes of some lines."""
        waiting: list[tuple[list[int], Sequence[int], int]] = []
        for line, tokens in lines:
            unknown = np.isnan(self._total[line])
            if unknown.any():
                waiting.append((line, tokens, int(unknown.argmax())))
        while waiting:
            before = dict.fromkeys(line[place - 1] for line, _, place in waiting)
            self._evaluate([node for node in before if self._row[node] < 0])
            parents = np.array([line[place - 1] for line, _, place in waiting])
            nodes = [line[place] for line, _, place in waiting]
            following = [tokens[place] for _, tokens, place in waiting]
            self._total[nodes] = self._total[parents] + self._predict(parents, following)
            waiting = [
                (line, tokens, place + 1)
                for line, tokens, place in waiting
                if place + 1 < len(line)
            ]

    @torch.inference_mode()
    def _predict(self, nodes: NDArray[np.int64], tokens: Sequence[int]) -> NDArray[np.float64]:
        """Return the log-probability of a token after each node."""
        rows = torch.from_numpy(self._row[nodes]).to(self._device)
        embedded = self._network.embedding.weight[torch.tensor(tokens, device=self._device)]
        logits = (self._hidden[rows] * embedded).sum(dim=1).float()
        return (logits - self._scale[rows]).cpu().double().numpy()

    @torch.inference_mode()
    def _evaluate(self, nodes: Sequence[int]) -> None:
        """Let the network read nodes whose parents it has read."""
        if not nodes:
            return
        ordered = sorted(nodes, key=lambda node: int(self._place[node]))
        while ordered:
            # The last ones are the longest.
            places = int(self._place[ordered[-1]]) + 1
            count = max(1, BATCH_PLACES // places)
            self._evaluate_batch(np.array(ordered[-count:]))
            del ordered[-count:]

    def _evaluate_batch(self, nodes: NDArray[np.int64]) -> None:
        """Let the network read some nodes at once."""
        network, device, count = self._network, self._device, len(nodes)
        places = self._place[nodes]
        rows = np.zeros((count, int(places.max())), np.int64)
        unseen = np.ones(rows.shape, np.bool_)
        node = self._parent[nodes]
        for column in range(rows.shape[1]):
            here = node > 0
            rows[here, column] = self._row[node[here]]
            unseen[here, column] = False
            node = self._parent[node]
        before = torch.from_numpy(rows).to(device)
        step = network.step(
            torch.from_numpy(self._token[nodes]).to(device),
            torch.from_numpy(places).to(device),
            lambda layer: (self._keys[layer][before], self._values[layer][before]),
            torch.from_numpy(unseen).to(device),
        )
        first, last = self._rows, self._rows + count
        self._make_room(last)
        self._keys[:, first:last] = step.keys
        self._values[:, first:last] = step.values
        self._hidden[first:last] = step.hidden
        logits = step.hidden @ network.embedding.weight.T
        self._scale[first:last] = logits.float().logsumexp(dim=1)
        self._row[nodes] = np.arange(first, last)
        self._rows = last

    @torch.inference_mode()
    def _forget(self) -> None:
        """Drop what was not needed lately, so that at most half of what may be kept is left."""
        used, row = self._used[: self._nodes], self._row[: self._nodes]
        latest = np.sort(used[row >= 0])[-(self._kept_rows // 2)]
        # What a text needs, all its beginnings need: no node is kept without its parent.
        kept = used > latest
        kept[0] = True
        number = np.cumsum(kept) - 1
        rows = torch.from_numpy(row[kept & (row >= 0)]).to(self._device)
        row[kept & (row >= 0)] = np.arange(len(rows))
        for name in _COLUMNS:
            column = getattr(self, name)
            column[: number[-1] + 1] = column[: self._nodes][kept]
        self._nodes, self._rows = int(number[-1]) + 1, len(rows)
        self._parent[: self._nodes] = number[self._parent[: self._nodes]]
        self._child = {
            parent * self._vocab + token: node
            for node, (parent, token) in enumerate(
                zip(
                    self._parent[: self._nodes].tolist(),
                    self._token[: self._nodes].tolist(),
                    strict=True,
                )
            )
            if node > 0
        }
        for table in (self._keys, self._values):
            table[:, : len(rows)] = table[:, rows]
        for table in (self._hidden, self._scale):
            table[: len(rows)] = table[rows]

    def _make_room(self, rows: int) -> None:
        """Make room for as many rows."""
        while rows > len(self._scale):
            self._keys, self._values = (
                torch.cat((table, torch.zeros_like(table)), dim=1)
                for table in (self._keys, self._values)
            )
            self._hidden, self._scale = (
                torch.cat((table, torch.zeros_like(table))) for table in (self._hidden, self._scale)
            )

"""A model for the beam that needs no network: letters by chance, given the three before them."""

import hashlib

import numpy as np


class ByLetters:
    """A letter's score depends on it and the three before, so that histories matter."""

    def __init__(self, seed=0):
        self.seed = seed
        self.calls = []

    def letter(self, seen):
        digest = hashlib.blake2b(f"{self.seed}/{seen}".encode(), digest_size=4).digest()
        return -3.0 * (int.from_bytes(digest, "big") + 1) / 2**32

    def beginning(self, text):
        return sum(self.letter(text[max(0, end - 4) : end]) for end in range(1, len(text) + 1))

    def sentence(self, text):
        return self.beginning(text) + self.letter(text[-3:] + "$")

    def score_beginnings(self, texts):
        self.calls.append(list(texts))
        return np.array([self.beginning(text) for text in texts])

    def score_sentences(self, texts):
        return np.array([self.sentence(text) for text in texts])

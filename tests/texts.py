"""Short passages of the demo's corpus, cut so that a test's forward pass takes under a second."""

from kvquilt.demo.corpus import passages

PASSAGES = tuple(str(document.content)[:420] + "\n\n" for document in passages().values())
QUESTION = "Question: What has to cool before it can be cut? Answer in one sentence."

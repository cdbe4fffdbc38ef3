"""What a rule is, and what it says of what it did."""

from __future__ import annotations

from typing import Callable, FrozenSet, NamedTuple, Optional

from ..graph import Graph, Node


class Rule(NamedTuple):
    """One pattern and its replacement.

    Attributes
    ----------
    name : str
        What is done, as one word: 'folded'.
    operators : frozenset of str
        Operators of the node at which the pattern ends.
    rewrite : callable
        Gets the graph and the node; returns words about where the node went, or None.
    """

    name: str
    operators: FrozenSet[str]
    rewrite: Callable[[Graph, Node], Optional[str]]


class Rewrite(NamedTuple):
    """One thing that was done to a graph.

    Attributes
    ----------
    node, operator : str
        The node that the rule looked at, and its operator then.
    action : str
        'dropped', 'split', 'folded', 'replaced', 'fused', 'moved' or 'packed'.
    words : str
        The rest of the sentence.
    """

    node: str
    operator: str
    action: str
    words: str

    def __str__(self) -> str:
        return f'{self.node}: {self.operator} {self.action} {self.words}'.rstrip()


class Left(NamedTuple):
    """A node that stayed as it was, though nodes like it are rewritten, and why."""

    node: str
    operator: str
    reason: str

    def __str__(self) -> str:
        return f'{self.node}: {self.operator} left, {self.reason}'


class Stays(Exception):
    """Why a node cannot be rewritten."""

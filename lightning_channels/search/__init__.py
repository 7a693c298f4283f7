"""Search over a trained supernet: which widths, under which limits, score best."""

from lightning_channels.search.building import build_search
from lightning_channels.search.candidate import Candidate
from lightning_channels.search.driver import search
from lightning_channels.search.evolution import EvolutionSearch
from lightning_channels.search.greedy import GreedySearch
from lightning_channels.search.optuna import OptunaSearch
from lightning_channels.search.protocol import Executor, SearchAlgorithm, SearchTask, SerialExecutor
from lightning_channels.search.random_search import RandomSearch
from lightning_channels.search.ranks import RankExecutor
from lightning_channels.search.result import SearchResult
from lightning_channels.search.space import SearchSpace

__all__ = [
    "Candidate",
    "EvolutionSearch",
    "Executor",
    "GreedySearch",
    "OptunaSearch",
    "RandomSearch",
    "RankExecutor",
    "SearchAlgorithm",
    "SearchResult",
    "SearchSpace",
    "SearchTask",
    "SerialExecutor",
    "build_search",
    "search",
    "search_subnets",
]

search_subnets = search
"""The same, under a name that isn't this package's: ``from lightning_channels import search_subnets``."""

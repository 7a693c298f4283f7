"""Names for classes that configs refer to.

A config says ``type: SequentialMutableChannelUnit``; only names that are registered here are ever turned into a class,
so that nothing read from a file can import or run anything else.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from lightning_channels.errors import ConfigError, check_keys, did_you_mean

__all__ = [
    "CRITERIA",
    "LOSS_CALCULATORS",
    "MODELS",
    "MUTATORS",
    "SAMPLERS",
    "SCHEDULES",
    "SEARCHES",
    "TRACERS",
    "UNITS",
    "Registry",
    "build",
]

T = TypeVar("T", bound=type)
Base = TypeVar("Base")


class Registry(Generic[Base]):
    """A name → class table with one decorator.

    Args:
        kind: What the classes are, for messages (``"unit"``).
        package: Module whose import registers the built-in classes; imported at the first look-up, so that a registry
            can be used without importing its users first.

    Example:
        >>> SHAPES = Registry("shape")
        >>> @SHAPES.register()
        ... class Square: ...
        >>> SHAPES.get("Square").__name__
        'Square'
    """

    def __init__(self, kind: str, package: str | None = None) -> None:
        self.kind = kind
        self._package = package
        self._classes: dict[str, type[Base]] = {}

    def register(self, name: str | None = None, *, aliases: Iterable[str] = ()) -> Callable[[T], T]:
        """Decorator that makes a class known under its own name, or under ``name``.

        Args:
            name: The name in configs; the class's own by default.
            aliases: Further names.

        Raises:
            ConfigError: If a name is taken by another class.
        """

        def decorate(cls: T) -> T:
            for key in (name or cls.__name__, *aliases):
                known = self._classes.get(key)
                if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                    raise ConfigError(
                        f"the {self.kind} name {key!r} is taken by {known.__module__}.{known.__qualname__}"
                    )
                self._classes[key] = cls
            return cls

        return decorate

    def _load(self) -> None:
        if self._package is not None:
            package, self._package = self._package, None
            importlib.import_module(package)

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._load()
        return sorted(self._classes)

    def __contains__(self, name: object) -> bool:
        self._load()
        return isinstance(name, str) and name in self._classes

    def get(self, name: object) -> type[Base]:
        """The class of a name.

        Raises:
            ConfigError: If the name is unknown; the message names the nearest match and what is allowed.
        """
        self._load()
        if isinstance(name, str) and name in self._classes:
            return self._classes[name]
        hint = did_you_mean(name, self._classes) or "."
        raise ConfigError(f"unknown {self.kind} type {name!r}{hint} Known: {', '.join(self.names())}")

    def name_of(self, cls: type) -> str | None:
        """The name that configs call a class by: its own if it is known under that, else the first; None if unknown."""
        self._load()
        names = [name for name, known in self._classes.items() if known is cls]
        return cls.__name__ if cls.__name__ in names else next(iter(names), None)

    def config_of(self, written: str | Mapping[str, Any], where: str) -> dict[str, Any]:
        """The config that a user wrote, as plain data.

        Args:
            written: A name, or a dict with ``type`` and arguments.
            where: What it is called in messages.

        Raises:
            ConfigError: If the name is unknown, or it isn't plain data.
        """
        from lightning_channels._plain import to_plain

        config: dict[str, Any] = {"type": written} if isinstance(written, str) else to_plain(written, where)
        name = config.get("type")
        if name is not None and name not in self:
            hint = did_you_mean(name, self.names()) or "."
            raise ConfigError(f"unknown {self.kind} {name!r}{hint} Known: {', '.join(self.names())}")
        return config

    def build(self, cfg: Mapping[str, Any], **extra: Any) -> Base:
        """Make an object from a dict with ``type`` and its arguments.

        Args:
            cfg: ``{"type": name, **arguments}``; not changed.
            **extra: Further arguments; those in ``cfg`` win.

        Raises:
            ConfigError: If ``type`` is missing or unknown, or if the class takes no such argument.
        """
        if not is_typed(cfg):
            known = ", ".join(self.names())
            raise ConfigError(f"a {self.kind} config must be a dict with a 'type', got {_shown(cfg)}. Known: {known}")
        cls = self.get(cfg["type"])
        arguments = {**extra, **{key: value for key, value in cfg.items() if key != "type"}}
        check_arguments(cls, arguments, f"{self.kind} {cfg['type']}")
        return cls(**arguments)


def _shown(cfg: object) -> str:
    return f"the keys {', '.join(map(str, cfg))}" if isinstance(cfg, Mapping) else repr(cfg)


def is_typed(cfg: object) -> bool:
    """Whether something is a dict with a ``type``."""
    return isinstance(cfg, Mapping) and "type" in cfg


def check_arguments(cls: type, arguments: Mapping[str, Any], what: str, besides: Iterable[str] = ()) -> None:
    """Refuse arguments that ``cls`` doesn't take, naming the nearest one that it does; ``besides`` are others to allow.

    Raises:
        ConfigError: If there is such an argument.
    """
    parameters = inspect.signature(cls).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    check_keys(arguments, [*parameters, *besides], what, noun="argument")


UNITS: Registry[Any] = Registry("unit", "lightning_channels.units")
MUTATORS: Registry[Any] = Registry("mutator", "lightning_channels.mutators")
TRACERS: Registry[Any] = Registry("tracer", "lightning_channels.tracing")
SAMPLERS: Registry[Any] = Registry("sampler", "lightning_channels.samplers")
CRITERIA: Registry[Any] = Registry("criterion", "lightning_channels.criteria")
SCHEDULES: Registry[Any] = Registry("schedule", "lightning_channels.pruning")
SEARCHES: Registry[Any] = Registry("search algorithm", "lightning_channels.search")
LOSS_CALCULATORS: Registry[Any] = Registry("loss calculator", "lightning_channels.tracing")


def build(cfg: Mapping[str, Any]) -> Any:
    """Build a mutator from its template.

    Args:
        cfg: What :meth:`ChannelMutator.config_template` returned: dicts, or an OmegaConf container. Not changed.

    Returns:
        A mutator that isn't prepared yet; its ``prepare_from_supernet`` restores the template's choices.

    Raises:
        ConfigError: If a type, name or key is unknown.
    """
    from lightning_channels._plain import to_plain

    # what a mutator keeps of it, it copies; a dict may name a unit by its class, which is no plain data
    return MUTATORS.build(to_plain(cfg) if type(cfg).__module__.startswith("omegaconf.") else cfg)


class _Models:
    """``MODELS.build(config)``, MMRazor's way to write :func:`~lightning_channels.build`."""

    build = staticmethod(build)


MODELS = _Models()

"""What a training step calls: the outermost modules with prunable channels, with their inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._pytree import tree_leaves

from lightning_channels.dynamic_ops import is_dynamic
from lightning_channels.errors import ConfigError

__all__ = ["Call", "CallWatch"]


@dataclass(slots=True)
class Call:
    """One call of a module, which can be made again."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: Any

    def again(self) -> Any:
        """Call it with the same inputs, at the widths of now."""
        return self.module(*self.args, **self.kwargs)

    def tensors(self) -> list[Tensor]:
        """The tensors among the inputs."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]


class CallWatch:
    """Watches which prunable modules a step calls.

    In the first step all of them are watched, and later only those that turned out to be the outermost ones.

    Args:
        root: The LightningModule.
        target: What was prepared, the root itself or a part of it.
    """

    def __init__(self, root: nn.Module, target: nn.Module) -> None:
        dynamic = {id(module) for module in target.modules() if is_dynamic(module)}
        self._names = {id(module): name or type(root).__name__ for name, module in root.named_modules()}
        # what runs inside of a compiled module calls no hooks that come later
        compiled = (module._modules.get("_orig_mod") for module in root.modules())
        hidden = {id(inner) for module in compiled if module is not None for inner in module.modules()}
        self._all = [
            module
            for module in root.modules()
            if id(module) not in hidden and any(id(inner) in dynamic for inner in module.modules())
        ]
        self._outermost: list[nn.Module] = []

    @contextmanager
    def watching(self) -> Iterator[list[Call]]:
        """Collect the outermost calls inside the block.

        Raises:
            ConfigError: After the block, if there were none, or if one works on what came of another.
        """
        calls: list[Call] = []
        depth = 0

        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            nonlocal depth
            depth += 1

        def leave(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
            nonlocal depth
            depth -= 1
            if depth == 0 and outputs is not None:  # which it is after an exception as well
                calls.append(Call(module, args, kwargs, outputs))

        with ExitStack() as stack:
            for module in self._outermost or self._all:
                for handle in (
                    module.register_forward_pre_hook(enter, with_kwargs=True),
                    module.register_forward_hook(leave, with_kwargs=True, always_call=True),
                ):
                    stack.callback(handle.remove)
            yield calls
        self._check(calls)
        if not self._outermost:
            self._outermost = list({id(call.module): call.module for call in calls}.values())

    def _check(self, calls: list[Call]) -> None:
        if not calls:
            names = ", ".join(self._names[id(module)] for module in self._outermost or self._all[:3])
            raise ConfigError(
                f"training_step called nothing that can be narrow (such as {names}), so that there is nothing to call "
                "again at other widths. Call the net as a module, self.net(x); a compiled module can't be watched"
            )
        earlier: set[Node] = set()
        for call in calls:
            if earlier and any(_reaches(tensor.grad_fn, earlier) for tensor in call.tensors()):
                names = " and then ".join(dict.fromkeys(self._names[id(c.module)] for c in calls))
                raise ConfigError(
                    f"training_step calls {names} on what came of it, and a narrow pass must go through all of it at "
                    "once. Put the calls into one module's forward, and call that"
                )
            outputs = (leaf for leaf in tree_leaves(call.outputs) if isinstance(leaf, Tensor))
            earlier |= {tensor.grad_fn for tensor in outputs if tensor.grad_fn is not None}


def _reaches(node: Node | None, targets: set[Node]) -> bool:
    """Whether a tensor's history goes back to one of these nodes."""
    waiting = [] if node is None else [node]
    seen: set[Node] = set()
    while waiting:
        current = waiting.pop()
        if current in targets:
            return True
        if current not in seen:
            seen.add(current)
            waiting += [inner for inner, _ in current.next_functions if inner is not None]
    return False

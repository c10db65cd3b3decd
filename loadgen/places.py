"""Where in a YAML text a value stands, so that errors can name line and column."""

from __future__ import annotations

from typing import Any

import yaml


class Places:
    """A parsed YAML document with the position of each key and value.

    Raises:
        yaml.YAMLError: the text is no YAML, or a key appears twice.
    """

    def __init__(self, text: str) -> None:
        self._root = yaml.compose(text, Loader=yaml.SafeLoader)
        if self._root is not None:
            _refuse_repeated_keys(self._root)
        self.content: Any = yaml.safe_load(text)

    def spot(self, where: str, location: tuple[int | str, ...]) -> str:
        """``where:line:column: path`` of the deepest part of ``location`` that the text has.

        Pydantic's locations also name the branch of a union, which is no key of the text: such parts are skipped.
        """
        node, mark, path = self._root, None, []
        for part in location:
            child = _child(node, part)
            if child is not None:
                mark, node = child
                path.append(str(part))
        mark = mark or (node.start_mark if node is not None else None)
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        return f"{place}: {'.'.join(path)}" if path else place


def _child(node: yaml.Node | None, part: int | str) -> tuple[yaml.Mark, yaml.Node] | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        item: yaml.Node = node.value[part]
        return item.start_mark, item
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value == str(part):
                return key.start_mark, value
    return None


def _refuse_repeated_keys(node: yaml.Node) -> None:
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} appears twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
            children.append(value)
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    for child in children:
        _refuse_repeated_keys(child)

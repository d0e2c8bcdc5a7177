"""The files of one collection as filters see them: names, attributes, and which files a filter lets pass. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.filters import Filter, matches
from gateway.storage.changes import FileRow

MAX_FILTERS_KEPT = 16  # answers of filters kept for the next question, per collection and generation

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Files:
    """Lists are append-only and shared by generations; the arrays say what one generation sees.

    attribute_set: number of each file's attributes in `attributes`, where equal ones stand once. epoch: of each
    file's last change of them.
    """

    ids: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    attributes: list[dict[str, Any]] = field(default_factory=lambda: [{}])
    attribute_numbers: dict[bytes, int] = field(default_factory=lambda: {b"{}": 0})
    attribute_set: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    epoch: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    _allowed: dict[bytes, Mask] = field(default_factory=dict)

    def number(self, file_id: str, name: str = "") -> int:
        """The file's number; a new file gets the next one. For the updater."""
        number = self.numbers.get(file_id)
        if number is None:
            number = self.numbers[file_id] = len(self.ids)
            self.ids.append(file_id)
            self.names.append(name)
        elif name:
            self.names[number] = name
        return number

    def updated(self, rows: Iterable[FileRow]) -> Files:
        """With these attributes, where they are not older than those known; and with room for all numbers given."""
        known = [(self.number(row.file_id), row) for row in rows]
        num_files, old = len(self.ids), len(self.attribute_set)
        if not known and num_files == old:
            return self
        # Copied, however large: an array in use by searches must not change.
        sets, epochs = np.zeros(num_files, np.int32), np.zeros(num_files, np.int64)
        sets[:old], epochs[:old] = self.attribute_set, self.epoch
        for number, row in known:
            if row.epoch >= epochs[number]:
                sets[number], epochs[number] = self._attribute_number(row.attributes), row.epoch
        return replace(self, attribute_set=sets, epoch=epochs, _allowed={})

    def allowed(self, given: Filter) -> Mask:
        """Whether each file passes. Shapes: [number of files]."""
        key = msgspec.json.encode(given)
        kept = self._allowed.get(key)
        if kept is None:
            used = np.unique(self.attribute_set)
            passes = np.zeros(len(self.attributes) if len(used) else 1, np.bool_)
            for number in used.tolist():
                passes[number] = matches(given, self.attributes[number])
            kept = passes[self.attribute_set]
            if len(self._allowed) >= MAX_FILTERS_KEPT:
                self._allowed.clear()
            self._allowed[key] = kept
        return kept

    def _attribute_number(self, attributes: dict[str, Any]) -> int:
        key = msgspec.json.encode(attributes, order="sorted")
        number = self.attribute_numbers.get(key)
        if number is None:
            number = self.attribute_numbers[key] = len(self.attributes)
            self.attributes.append(attributes)
        return number

"""A random model of every family, saved as the library saves it and read again part by part."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from peelbound.workers.architecture import Architecture
from peelbound.workers.skeleton import Skeleton
from tests.tiny_models import random_model


@dataclass
class Subject:
    """The library's whole model beside the files that were saved from it."""

    whole: PreTrainedModel
    directory: Path

    @cached_property
    def files(self) -> dict[str, Tensor]:
        return load_file(self.directory / "model.safetensors")

    @cached_property
    def architecture(self) -> Architecture:
        return Architecture.from_config_json(json.loads((self.directory / "config.json").read_text()))

    @cached_property
    def parts(self) -> list[dict[str, Tensor]]:
        placed = self.architecture.place({name: tuple(t.shape) for name, t in self.files.items()})
        parts: list[dict[str, Tensor]] = [{} for _ in range(self.architecture.block_count + 1)]
        for placement in placed:
            stored = [self.files[name] for name in placement.stored]
            made = placement.conversion(stored) if placement.conversion else stored[0].clone()
            parts[placement.part][placement.name] = made
        return parts

    @cached_property
    def skeleton(self) -> Skeleton:
        return Skeleton(self.architecture, self.parts[0])

    def block(self, index: int) -> nn.Module:
        return self.skeleton.load_block(index, {name: t.clone() for name, t in self.parts[index].items()})

    def blocks(self) -> list[tuple[int, nn.Module]]:
        return [(index, self.block(index)) for index in range(1, self.architecture.block_count + 1)]

    def ids(self, length: int = 24) -> Tensor:
        """[2, T] token ids; T beyond the sliding windows of the tiny models."""
        return torch.randint(3, 96, (2, length), generator=torch.Generator().manual_seed(length))


@pytest.fixture(scope="session")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Subject]:
    made: dict[str, Subject] = {}

    def make(family: str) -> Subject:
        if family not in made:
            directory = tmp_path_factory.mktemp(family)
            whole = random_model(family)
            whole.save_pretrained(directory)
            made[family] = Subject(whole, directory)
        return made[family]

    return make

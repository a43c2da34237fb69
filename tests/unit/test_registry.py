from dataclasses import dataclass

import pytest

from unimatch.errors import ConfigError
from unimatch.registry import Entry, Registry


@dataclass
class Settings:
    size: int = 3


def make() -> Registry:
    registry = Registry("shape")

    @registry.register("square", Settings)
    class Square:
        pass

    @registry.register("circle", Settings)
    class Circle:
        pass

    assert Circle.__name__ == "Circle"  # the decorator hands the class back
    return registry


def test_an_entry_holds_the_class_and_its_settings():
    entry = make()["square"]
    assert isinstance(entry, Entry)
    assert (entry.name, entry.cls.__name__, entry.config) == ("square", "Square", Settings)


def test_names_keep_the_order_of_registration():
    registry = make()
    assert registry.names() == ["square", "circle"]
    assert "square" in registry and "oval" not in registry


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"^unknown shape 'sqare'; did you mean 'square'\?$"):
        make()["sqare"]


def test_a_name_unlike_all_others_lists_them():
    with pytest.raises(ConfigError, match="unknown shape 'x'; choose from: square, circle$"):
        make()["x"]
    with pytest.raises(ConfigError, match="unknown shape 'x'; there are none$"):
        Registry("shape")["x"]


def test_mistakes_of_ours_are_assertions():
    registry = make()

    @dataclass
    class Named:
        name: str

    with pytest.raises(AssertionError, match="registered twice"):
        registry.register("circle", Settings)
    with pytest.raises(AssertionError, match="called 'name'"):
        registry.register("oval", Named)
    with pytest.raises(AssertionError, match="must be a dataclass"):
        registry.register("oval", int)

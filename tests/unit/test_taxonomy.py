import pytest

from unimatch.errors import DataError
from unimatch.taxonomy import Taxonomy, default_colors


def test_the_hash_follows_names_and_order_but_not_colours():
    one = Taxonomy(("sky", "road"), ((0, 0, 1), (0, 0, 2)))
    assert one.hash == Taxonomy.of(["sky", "road"]).hash
    assert one.hash != Taxonomy.of(["road", "sky"]).hash
    assert one.hash != Taxonomy.of(["sky", "roads"]).hash
    assert Taxonomy.from_json(one.to_json()) == one


@pytest.mark.parametrize(
    ("names", "count", "message"),
    [
        (["a"], 1, "2 to 255 classes, found 1"),
        (["a", "b"], 3, "one colour a class"),
        (["a", "b", "a"], 3, "repeated: a"),
        ([str(i) for i in range(256)], 256, "found 256"),
    ],
)
def test_classes_that_cannot_be(names, count, message):
    with pytest.raises(DataError, match=message):
        Taxonomy(tuple(names), default_colors(count))


def test_colours_differ():
    colors = default_colors(255)
    assert len(set(colors[:150])) == 150 and (0, 0, 0) not in colors

"""Settings from a file and from the command line."""

import pytest

from hpvade._cli._cycleae_config import EDIT, OPTIONAL, REQUIRED, read_config, template
from hpvade._cli._errors import UsageError

GIVEN = dict.fromkeys(REQUIRED, "here")


def test_template_holds_every_key_and_is_refused_as_it_is(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(template())
    with pytest.raises(UsageError) as error:
        read_config(path, {})
    assert all(f"{name} is still {EDIT}" in str(error.value) for name in REQUIRED)
    assert read_config(path, GIVEN) == GIVEN | {name: value for name, (value, _) in OPTIONAL.items()}


def test_options_come_on_top_of_the_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("batch_size: 64\nlatent_dim: 9\ninclude: [a]\n")
    found = read_config(path, GIVEN | {"latent_dim": 5, "include": None, "seed": 0})
    assert (found["batch_size"], found["latent_dim"], found["include"], found["seed"]) == (64, 5, ["a"], 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "holds a list"),
        ("a: [", "cannot be read as YAML"),
        ("learning_rate: 1e-4\n", "write 1.0e-4"),
        ("nonnegative: 1\n", "expected true or false"),
        ("include: tissue\n", "expected a list of names"),
        ("genes: 3\n", "expected text"),
        ("seed: true\n", "expected a whole number"),
    ],
)
def test_bad_values_are_named(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_config(path, GIVEN)

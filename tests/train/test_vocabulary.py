from collections.abc import Callable
from pathlib import Path

import pytest

from expertly.errors import RecipeError
from expertly.text import Tokenizer
from expertly.train.recipe import Recipe
from expertly.train.texts import Domain, open_domains
from expertly.train.vocabulary import END, make_tokenizer, train_bpe

MakeRecipe = Callable[..., Recipe]


def domains_of(recipe: Recipe) -> tuple[Domain, ...]:
    return open_domains(recipe.data.texts, (), recipe.data.held_out, recipe.folder)


def test_the_most_frequent_pair_is_merged_first() -> None:
    tokenizer = train_bpe(["abab abab abc"], vocab_size=258)
    assert tokenizer.get_vocab_size() == 258
    assert tokenizer.id_to_token(0) == END
    # "ab" occurs five times, more than any other pair
    assert tokenizer.id_to_token(257) == "ab"
    assert tokenizer.encode("ab").ids == [257]


def test_any_bytes_can_be_spelled() -> None:
    tokenizer = train_bpe(["a"], vocab_size=257)
    text = "naïve 語 \x00\t\r\n  🦉"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_small_text_gives_a_small_vocabulary() -> None:
    assert train_bpe(["ab"], vocab_size=5000).get_vocab_size() == 258


def test_the_same_texts_give_the_same_tokenizer(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe()
    (domain,) = domains_of(recipe)
    made = {train_bpe(domain.training(), 300).to_str() for _ in range(5)}
    assert len(made) == 1


def test_a_trained_tokenizer_is_a_folder_that_can_be_opened(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = make_recipe()
    folder = tmp_path / "run"
    folder.mkdir()
    tokenizer = make_tokenizer(recipe, domains_of(recipe), folder)
    assert tokenizer.vocab_size == 280
    assert tokenizer.eos_ids == {0}
    assert tokenizer.encode("owl" + END)[-1] == 0
    assert Tokenizer.open(folder).encode("the owl") == tokenizer.encode("the owl")


def test_held_out_text_teaches_the_tokenizer_nothing(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = make_recipe()
    path = tmp_path / "poem.txt"
    path.write_text("a b\n" * 900 + "zyzzyva zyzzyva\n" * 20)
    make_tokenizer(recipe, domains_of(recipe), tmp_path)
    vocabulary = Tokenizer.open(tmp_path)
    assert not any("zy" in vocabulary.token_text(i) for i in range(vocabulary.vocab_size))


def test_a_given_tokenizer_is_copied_with_its_settings(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    recipe = make_recipe()
    made = make_tokenizer(recipe, domains_of(recipe), first)
    named = make_recipe(("vocab_size = 280", 'path = "first/tokenizer.json"'))
    copied = make_tokenizer(named, domains_of(named), second)
    assert copied.eos_ids == made.eos_ids == {0}
    assert (second / "tokenizer.json").read_bytes() == (first / "tokenizer.json").read_bytes()
    by_folder = make_recipe(("vocab_size = 280", 'path = "first"'))
    assert make_tokenizer(by_folder, (), tmp_path / "second").vocab_size == 280


def test_a_tokenizer_that_is_not_there_is_named(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(("vocab_size = 280", 'path = "gone.json"'))
    with pytest.raises(RecipeError, match=r"there is no file .*gone\.json"):
        make_tokenizer(recipe, (), tmp_path)

import pytest

from recognizer_svc.training.recipe import Recipe, load_recipe, parse_recipe, shipped_recipes
from recognizer_svc.training.schedule import learning_rate
from stal_data.errors import InputError, NotFoundError
from tests.recognizer.toy_store import ACAR


def test_every_shipped_recipe_loads_and_survives_a_round_trip():
    assert {"acar", "linear", "acar-published"} <= set(shipped_recipes())
    for name in shipped_recipes():
        recipe = load_recipe(f"{name}.yaml")
        assert recipe.name == name
        assert parse_recipe(recipe.to_yaml()) == recipe


def test_a_recipe_comes_from_a_file_a_name_or_text(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(ACAR)
    assert load_recipe(path) == load_recipe(str(path)) == load_recipe(ACAR) == parse_recipe(ACAR)


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("head.depth=1", "head", "depth", 1),
        ("optimizer.weight_decay=1e-7", "optimizer", "weight_decay", 1e-7),
        ("data.streams=[slowfast]", "data", "streams", ("slowfast",)),
        ("validation.split=null", "validation", "split", None),
        ("loss={kind: pose_softmax, num_poses: 2}", "loss", "num_poses", 2),
    ],
)
def test_overrides(override, section, key, value):
    recipe = parse_recipe(ACAR, [override])
    assert getattr(getattr(recipe, section), key) == value


def test_later_overrides_win():
    assert parse_recipe(ACAR, ["training.epochs=3", "training.epochs=5"]).training.epochs == 5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("head.dept=1", r"head: unknown key 'dept'. Did you mean 'depth'\?"),
        ("validation.keep_best=best", r"validation.keep_best is 'best': it must be true or false"),
        ("trainig.epochs=1", r"top level: unknown key 'trainig'. Did you mean 'training'\?"),
        ("head.kind=acarr", "head: .*'acarr'.*'acar', 'linear'"),
        ("head.depth=two", "head.depth is 'two': .*integer"),
        ("head.dropout=1.5", "head.dropout is 1.5: .*less than 1"),
        ("optimizer.learning_rate=.inf", "optimizer.learning_rate is inf: .*finite"),
        ("training.epochs=0", "training.epochs is 0: .*greater than or equal to 1"),
        ("data.dataset=../etc", "data.dataset is '../etc'"),
        ("optimizer={kind: sgd, learning_rate: 1, momentum: 0}", "optimizer: nesterov needs momentum above 0"),
        ("head.depth.more=1", "'depth' is a value, not a section"),
        ("head.depth", "must have the form section.key=value"),
        ("head.depth=[", r"'\[' is not a YAML value"),
        ("training.epochs=3000000000", "training.epochs is 3000000000: .*less than or equal to 1000000"),
        ("training.seed=0x" + "f" * 80, "training.seed is .*less than or equal to 9223372036854775807"),
        ("data.folder=" + "x/" * 600, "data.folder.*has 1200 characters, but may have 1000 at most"),
        ("x" * 50_000 + "=1", r"top level: unknown key 'x+\.\.\.x+'"),
        (
            "schedule={kind: steps, milestones: [" + "9000000, " * 500 + "]}",
            "schedule.milestones.0 is .*; and 480 more",
        ),
    ],
)
def test_a_wrong_override_says_what_was_meant(override, message):
    with pytest.raises(InputError, match=message):
        parse_recipe(ACAR, [override])


def test_an_unknown_recipe_offers_the_shipped_ones():
    with pytest.raises(NotFoundError, match=r"No recipe 'accar'.*Did you mean 'acar'"):
        load_recipe("accar")


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [\n", "\n"])
def test_text_that_is_no_recipe_is_refused(text):
    with pytest.raises(InputError, match="recipe"):
        load_recipe(text)


def test_a_missing_section_is_named():
    with pytest.raises(InputError, match="optimizer: Field required"):
        parse_recipe(ACAR.replace("optimizer:", "#"))


def test_going_on_starts_at_the_rate_where_the_published_schedule_ends():
    published, going_on = load_recipe("acar-published"), load_recipe("acar-continue")
    end = learning_rate(
        published.schedule, published.optimizer.learning_rate, step=1199, steps_per_epoch=100, epochs=12
    )
    assert end == pytest.approx(going_on.optimizer.learning_rate, rel=1e-12)
    assert (going_on.head, going_on.loss) == (published.head, published.loss)


def test_every_number_has_an_upper_bound_and_every_list_a_length():
    schema = Recipe.model_json_schema()
    unbounded = []

    def walk(node, where):
        if isinstance(node, list):
            for item in node:
                walk(item, where)
        if not isinstance(node, dict):
            return
        if node.get("type") in ("integer", "number") and not node.keys() & {"maximum", "exclusiveMaximum"}:
            unbounded.append(where)
        if node.get("type") == "array" and "maxItems" not in node:
            unbounded.append(where)
        for key, value in node.items():
            walk(value, f"{where}.{key}")

    walk(schema, "")
    assert not unbounded

"""Commands that take a recipe: an option they lack may be one of its keys, or of another command."""

import click

_CHECKPOINT = (
    "'predict' and 'models pack' take one of a run's checkpoints. 'train --run-id RUN --resume' goes on from the "
    "latest; --set training.init_head=FILE begins from the weights of a head; --set validation.keep_best=true keeps "
    "the best checkpoint."
)


class RecipeCommand(click.Command):
    """A command with `--set`; the error of an unknown option names the way to what it means."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            option = error.option_name
            way_out = _CHECKPOINT if option == "--checkpoint" else _keys_named(option)
            if not way_out:
                raise
            raise click.UsageError(f"No such option '{option}': {way_out}", ctx) from None


def _keys_named(option: str) -> str:
    from recognizer_svc.training.recipe import known_keys

    name = option.lstrip("-").replace("-", "_")
    known = known_keys()
    keys = [key for key in known if name in (key, key.partition(".")[2])] or [
        key for key in known if key.endswith(f"_{name}")
    ]
    listed = " or ".join(f"--set {key}=VALUE" for key in keys)
    return f"it is a setting of the recipe, so write {listed}." if keys else ""

"""How texts write a number of things."""


def amount(number: int, one: str, many: str | None = None) -> str:
    """Return `1 video` or `2 videos`. many: the plural where it is not regular."""
    return f"{number} {noun(number, one, many)}"


def noun(number: int, one: str, many: str | None = None) -> str:
    """Return the same without the number."""
    return one if number == 1 else many or one + ("es" if one.endswith(("s", "x")) else "s")

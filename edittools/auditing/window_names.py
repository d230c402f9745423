"""Names of windows on a contact sheet, such as "garbage truck:1": the class, and the number that the sheet shows.

This module imports nothing, so that the command line checks a name before torch is imported.
"""

EXAMPLE = "'garbage truck:1'"
"""A name, for messages."""


def parse_window_name(text: str) -> tuple[str, int]:
    """Split the name of a group of windows into the name of its class and its number.

    Args:
        text: such as "garbage truck:1"; the class name may contain colons.

    Raises:
        ValueError: if it has another form.
    """
    name, _, number = str(text).rpartition(":")
    if not name.strip() or not number.strip().isdecimal() or int(number) < 1:
        raise ValueError(
            f"repair {text!r} names no window of the contact sheet; pass a class and the number of a window, such as "
            f"{EXAMPLE}"
        )
    return name.strip(), int(number)

"""What can be a user's name, wherever one is read: in a certificate, in a share."""

from __future__ import annotations

from typing import Final

MAX_NAME_CHARS: Final = 64
"""X.520's upper bound of a common name (ub-common-name)."""

# Scripts whose letters look like one another's. A name keeps to one of them.
_LOOK_ALIKE_SCRIPTS: Final = frozenset(
    {"LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC"}
)


def name_fault(name: str) -> str | None:
    """Return what is wrong with `name` as a user's name, or None.

    A name has 1 to 64 printable characters, is its own NFKC form (so that no two spellings of one
    text are two users), keeps to one of the scripts whose letters look alike, and can be a file's
    name: no '/', and no '.', '-' or space at the edges where they would mislead.
    """
    import unicodedata  # here: no keeper needs it, and all of them would pay for it

    if not name:
        return "it is empty"
    if len(name) > MAX_NAME_CHARS:
        return f"it has {len(name)} characters, more than {MAX_NAME_CHARS}"
    if not name.isprintable():
        return "it has characters that cannot be printed"
    if "/" in name:
        return "it has a '/'"
    if name[0] in ".- " or name[-1] == " ":
        return "it starts with '.', '-' or a space, or ends with a space"
    if unicodedata.normalize("NFKC", name) != name:
        return "it has another form in Unicode's NFKC"
    scripts = {unicodedata.name(char, "").split(" ")[0] for char in name if char.isalpha()}
    if len(scripts & _LOOK_ALIKE_SCRIPTS) > 1:
        return "it mixes letters of scripts that look alike"
    return None

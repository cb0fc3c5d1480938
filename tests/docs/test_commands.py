"""Lines that the program would not take are found."""

import pytest

from tests.docs.commands import refused


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("kvquilt status --router HOST:PORT --set client.credentials.tls_ca=ca.crt > status.txt", ""),
        ("kvquilt token create --key FILE --identity NAME --namespace NAME --expires 30d", ""),
        ("kvquilt stats", "no command"),
        ("kvquilt token", "no command"),
        ("kvquilt status --rooter HOST:PORT", "--rooter"),
        ("kvquilt drain", "node"),
        ("kvquilt drain NODE OTHER", "OTHER"),
        ("kvquilt drain NODE --timeout soon", "valid number"),
        (
            "kvquilt status --set client.credentials.tls=x --set router.modell=x",
            "router.modell=x sets what there is not",
        ),
        ("kvquilt status --set nothing=x", "nothing=x sets what there is not"),
    ],
)
def test_a_line_is_taken_or_it_is_said_why_not(line: str, why: str) -> None:
    found = refused(line)
    assert why in found
    assert bool(found) == bool(why)

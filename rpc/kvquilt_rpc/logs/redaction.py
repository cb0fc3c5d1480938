"""Takes out of a text what is in no log: secrets that this process has, and what looks like one, or like a prompt.

Modules must not log these in the first place; this is for what comes in messages of others: of Redis, of object
storage, of the operating system, of a peer.
"""

import re
import threading
from urllib.parse import quote

HIDDEN = "[hidden]"
LEAST = 4
"""Shorter secrets are not looked for: half of all words would be hidden."""
MOST = 256
"""So many secrets are remembered; then those that were told first are forgotten."""
TEXT_CHARACTERS = 64
"""Longer quoted text is hidden; errors of ours quote no more."""

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # Who a URL is for: user and password, or a password alone. Greedy: a password may hold an @.
    (re.compile(r"([a-z][a-z0-9+.-]{1,30}://)[^\s/?#'\"]{0,512}@", re.IGNORECASE), rf"\1{HIDDEN}@"),
    (re.compile(r"\b(bearer|basic)\s+(?!token\b)[^\s'\",;)\]}]{8,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"\beyJ[\w-]{4,}(?:\.[\w-]*){1,4}"), HIDDEN),  # a JSON Web Token begins with {"
    (re.compile(r"-----BEGIN [A-Z ]+-----.*?(?:-----END [A-Z ]+-----|\Z)", re.DOTALL), HIDDEN),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b"), HIDDEN),
    (
        re.compile(
            r"\b([\w.-]*(?:password|passwd|secret|token(?!s)|(?:api|access|master|encryption)[_-]?key|credential|authorization|signature)"
            r"[\w.-]*[\"']?\s*[=:]\s*)(?!\s*\[hidden\])(?:\"[^\"]*\"|'[^']*'|[^\s,;&)}\]]+)",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    # Keys of objects and digests in full. Their first digits, which lines name them by, stay.
    (re.compile(r"\b([0-9a-f]{16})[0-9a-f]{24,}\b", re.IGNORECASE), r"\1..."),
    (re.compile(r"\b\d{1,7}(?:[,\s]+\d{1,7}){7,}\b"), "[numbers]"),  # token ids
    (re.compile(rf"'[^'\n]{{{TEXT_CHARACTERS + 1},}}'"), "'[text]'"),
    (re.compile(rf'"[^"\n]{{{TEXT_CHARACTERS + 1},}}"'), '"[text]"'),
)


class Redactor:
    """Knows secrets; safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, None] = {}
        self._pattern: re.Pattern[str] | None = None

    def hide(self, secret: str) -> None:
        """Look for a secret from now on, also as it would be in a URL."""
        forms = [form for form in (secret.strip(), quote(secret.strip(), safe="")) if len(form) >= LEAST]
        with self._lock:
            if all(form in self._known for form in forms):
                return
            self._known |= dict.fromkeys(forms)
            while len(self._known) > MOST:
                del self._known[next(iter(self._known))]
            longest_first = sorted(self._known, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def __call__(self, text: str) -> str:
        """The text without what is to be hidden."""
        if self._pattern is not None:
            text = self._pattern.sub(HIDDEN, text)
        for pattern, instead in _PATTERNS:
            text = pattern.sub(instead, text)
        return text


redact = Redactor()
"""This process's."""


def hide(secret: str) -> None:
    """This process has a secret: no line shows it from now on."""
    redact.hide(secret)

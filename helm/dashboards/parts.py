"""What the dashboards have in common: which series they ask for, and shares and quantiles of them."""

from helm.dashboards.kit import Variable

INSTALLATION = Variable(
    "installation",
    "Installation",
    "Namespace of Kubernetes that kvquilt runs in; All where there is none.",
    "kvquilt_build_info",
    "namespace",
)
HERE = 'namespace=~"$installation"'
"""Of the chosen installations."""
ROUTER = 'job="kvquilt-router"'
JOBS = 'job=~"kvquilt-router|kvquilt-node"'
FAILED = 'code=~"INTERNAL|UNKNOWN|UNAVAILABLE|DEADLINE_EXCEEDED|DATA_LOSS"'
"""Status codes that are the server's fault."""
RATE = "[$__rate_interval]"
RANGE = "[$__range]"
"""The whole time that is shown."""


def series(metric: str, *matchers: str) -> str:
    """A metric of the chosen installations."""
    return f"{metric}{{{', '.join((HERE, *matchers))}}}"


def rate(metric: str, *matchers: str, by: str = "") -> str:
    """How fast it grows, summed, by these labels."""
    return f"sum by ({by}) (rate({series(metric, *matchers)}{RATE}))"


def grown(metric: str, *matchers: str, by: str = "") -> str:
    """By how much it grew in the time that is shown."""
    return f"sum by ({by}) (increase({series(metric, *matchers)}{RANGE}))"


def quantile(share: float, metric: str, *matchers: str, by: str = "", over: str = RATE) -> str:
    """Of a histogram."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({series(metric + '_bucket', *matchers)}{over})))"


def mean(metric: str, *matchers: str, by: str = "") -> str:
    """Of a histogram."""
    return f"{rate(metric + '_sum', *matchers, by=by)} / {rate(metric + '_count', *matchers, by=by)}"


def share(part: str, whole: str) -> str:
    """One sum of another, with the same labels."""
    return f"{part} / {whole}"

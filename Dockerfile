# epp as a container: `docker build -t epp .`, then
#   docker run -p 9002:9002 -p 9003:9003 -v ./epp.yaml:/etc/epp/epp.yaml epp --config-file /etc/epp/epp.yaml --pool-name pool
ARG PYTHON=3.13

# The compiled transport. Built on an older system than it runs on, so that it finds its libc there.
FROM rust:1-slim-bookworm AS native
RUN apt-get update && apt-get install --yes --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/maturin && /opt/maturin/bin/pip install --quiet "maturin>=1.9,<2"
WORKDIR /src
COPY native ./
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    /opt/maturin/bin/maturin build --quiet --release --locked --out /wheels

FROM python:${PYTHON}-slim AS build
WORKDIR /src
RUN --mount=type=cache,target=/root/.cache/pip python -m pip install --quiet "uv>=0.9,<1"
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
# The dependencies in a layer of their own: they change less often than the source. Only what pyproject.toml names
# for running is installed, in the versions and with the hashes of the lock file.
COPY pyproject.toml requirements.lock ./
RUN --mount=type=cache,target=/root/.cache/uv \
    uv venv --no-project /opt/epp \
    && uv pip install --quiet --python /opt/epp/bin/python --only-binary :all: -r pyproject.toml -c requirements.lock
COPY --from=native /wheels /tmp/native
COPY README.md ./
COPY epp ./epp
RUN --mount=type=cache,target=/root/.cache/uv \
    uv build --quiet --wheel --out-dir /tmp/wheel \
    && uv pip install --quiet --python /opt/epp/bin/python --no-deps /tmp/wheel/*.whl /tmp/native/*.whl \
    && /opt/epp/bin/epp --version

FROM python:${PYTHON}-slim
# The base image brings pip; nothing is installed in a running picker.
RUN python -m pip uninstall --quiet --yes pip && rm -rf /usr/local/lib/python3*/ensurepip
COPY --from=build /opt/epp /opt/epp
ENV PATH=/opt/epp/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
# ext_proc, gRPC health, metrics and HTTP health; ext_proc and gRPC health of `epp route-by-model`.
EXPOSE 9002 9003 9090 9004 9005
STOPSIGNAL SIGTERM
# For plain Docker. Kubernetes does not read it: give its probes gRPC port 9003, services "liveness" and "readiness".
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:9090/readyz', timeout=2)"]
ENTRYPOINT ["epp", "serve"]

# CPU:   docker build -t spec-opt .
# CUDA:  docker build -t spec-opt:cuda --build-arg TORCH=cu128 .
# Runs as an ordinary user and with a read-only root: /work and /cache are for volumes, /tmp for a tmpfs.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
# "cpu", or a CUDA version as PyTorch names its builds ("cu128"): these bring CUDA, and need only the
# driver and the container toolkit of the host.
ARG TORCH=cpu
RUN python -m venv /opt/spec-opt
ENV PATH=/opt/spec-opt/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY constraints.txt .
# torch first and alone: with it present, no other package pulls a second build of it.
RUN pip install --constraint constraints.txt --index-url https://download.pytorch.org/whl/${TORCH} torch
COPY pyproject.toml README.md LICENSE ./
COPY spec_opt spec_opt
COPY studies studies
RUN pip install --constraint constraints.txt .

FROM python:${PYTHON}-slim
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin spec-opt \
    && install -d -o spec-opt -g spec-opt /work /cache
COPY --from=build /opt/spec-opt /opt/spec-opt
ENV PATH=/opt/spec-opt/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    SPEC_OPT_CACHE=/cache \
    HOME=/tmp
USER 10001:10001
WORKDIR /work
VOLUME ["/work", "/cache"]
ENTRYPOINT ["spec-opt"]
CMD ["--help"]

# Two images from one file:
#   api     the HTTP service, the dashboard, migrations: no torch to import
#   worker  fine-tuning, probing, model serving
# The worker's torch is chosen at build time: TORCH_SPEC is what pip installs (its default build is the
# CUDA one on Linux), TORCH_INDEX an index to take it from, for instance one of CPU builds.

FROM python:3.11-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/app \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# One user for every container: they share the storage and the secrets.
RUN groupadd --gid 10001 doublei && useradd --uid 10001 --gid doublei --no-create-home doublei \
    && install -d -o doublei -g doublei -m 0700 /data /models /secrets
WORKDIR /app

FROM base AS api
COPY requirements-api.lock ./
RUN pip install --no-deps --require-hashes -r requirements-api.lock
COPY watermark watermark
COPY evidence evidence
COPY probe probe
COPY catalogue catalogue
COPY service service
COPY dashboard dashboard
COPY migrations migrations
COPY deploy deploy
USER doublei
CMD ["python", "-m", "uvicorn", "service.app:create_app", "--factory", "--host", "0.0.0.0", "--port", "8000"]

FROM base AS worker
ARG TORCH_SPEC=torch==2.13.0
ARG TORCH_INDEX=
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH_SPEC"
COPY requirements-worker.lock ./
RUN pip install --no-deps --require-hashes -r requirements-worker.lock
COPY watermark watermark
COPY evidence evidence
COPY probe probe
COPY catalogue catalogue
COPY service service
COPY worker worker
USER doublei
CMD ["python", "-m", "celery", "-q", "-A", "worker.app", "worker", "-Q", "train", "-c", "1", "-n", "train@%h", "--loglevel", "WARNING"]

# One image for every process of Trimtab: `trimtab serve SERVICE`, `trimtab migrate`. docs/kubernetes.md and deploy/compose.yaml run it.
# It needs no write access but to /var/lib/trimtab and /tmp, and no user of its own in /etc/passwd: any number will do.

# The requirements are locked for this Python (requirements/base.txt).
FROM python:3.11-slim-bookworm AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /opt/trimtab
COPY requirements/base.txt requirements/base.txt
RUN python3 -m venv .venv \
 && .venv/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check --only-binary :all: --require-hashes -r requirements/base.txt \
 && .venv/bin/python -m pip uninstall --quiet --yes setuptools pip
COPY services services
COPY deploy/trimtab deploy/trimtab
RUN install -m 755 deploy/trimtab .venv/bin/trimtab \
 && .venv/bin/python -m compileall -q --invalidation-mode unchecked-hash services \
 && rm -r deploy requirements

FROM python:3.11-slim-bookworm
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="Trimtab" \
      org.opencontainers.image.description="An event-driven decision rules engine for marketing operations: the log decides." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
COPY --from=build /opt/trimtab /opt/trimtab
RUN install -d -m 770 -o 10001 -g 10001 /var/lib/trimtab
# Numpy's library would keep a thread for each core of the node, and a process works in one.
ENV PATH=/opt/trimtab/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    OPENBLAS_NUM_THREADS=1 \
    TRIMTAB_HOST=0.0.0.0 \
    TRIMTAB_PORT=8420 \
    TRIMTAB_DATA=/var/lib/trimtab \
    TRIMTAB_LOG_FORMAT=json
USER 10001:10001
WORKDIR /var/lib/trimtab
VOLUME /var/lib/trimtab
EXPOSE 8420
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
  CMD ["python3", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['TRIMTAB_PORT'] + '/livez', timeout=4)"]
ENTRYPOINT ["trimtab"]
CMD ["--help"]

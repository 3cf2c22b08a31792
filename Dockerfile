# The base by tag, for people, and by digest, for machines. Raise both together.
ARG PYTHON_TAG=3.13.15-slim-trixie
ARG PYTHON_DIGEST=sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b

FROM python:${PYTHON_TAG}@${PYTHON_DIGEST} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# Wheels only, each by its hash: nothing is compiled, so there is no compiler here either. The environment
# has no pip of its own; the base's fills it.
COPY requirements.lock requirements.build.lock ./
RUN python -m venv --without-pip /opt/firstopen \
    && python -m pip --python /opt/firstopen/bin/python install --quiet --require-hashes --only-binary :all: \
        --no-compile -r requirements.lock
RUN python -m venv --without-pip /opt/build \
    && python -m pip --python /opt/build/bin/python install --quiet --require-hashes --only-binary :all: \
        -r requirements.build.lock
COPY pyproject.toml README.md LICENSE ./
COPY service service/
RUN python -m pip --python /opt/build/bin/python wheel --quiet --no-deps --no-build-isolation \
        --wheel-dir /opt/wheel . \
    && python -m pip --python /opt/firstopen/bin/python install --quiet --no-index --no-deps --no-compile \
        /opt/wheel/firstopen-*.whl
# Compiled here, once, and never checked against its source again: the image is read-only.
RUN /opt/firstopen/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/firstopen/lib

FROM python:${PYTHON_TAG}@${PYTHON_DIGEST}
ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="firstopen" \
      org.opencontainers.image.description="Where an opened app should land, and which click brought it there" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Without a firstopen.toml at that path it does not start: a container never runs the demo by accident.
ENV PATH=/opt/firstopen/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FIRSTOPEN_CONFIG=/etc/firstopen/firstopen.toml \
    FIRSTOPEN_DATA_DIR=/var/lib/firstopen \
    FIRSTOPEN_HOST=:: \
    FIRSTOPEN_PORT=8000
RUN install -d -o 10001 -g 10001 -m 0750 /var/lib/firstopen
COPY --from=build /opt/firstopen /opt/firstopen/
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
    CMD ["python", "-I", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['FIRSTOPEN_PORT']), timeout=2); c.request('GET', '/health/ready'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["firstopen"]
CMD ["serve"]
